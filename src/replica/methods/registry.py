"""The registry of methods: names, versions and configurations, known without importing torch.

Each family is a folder with a `config.py` (pydantic configurations, registered here by name and version) and one module
per method (the class that does the work, imported when a run needs it).
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from replica.errors import ConfigError, nearest

CHANGES = {"structure", "loss", "optimizer", "schedule"}


class MethodConfig(BaseModel):
    """Base of every method's configuration: unknown keys are errors and values cannot be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class MethodEntry:
    """What the registry knows of a method.

    `changes` says what it acts on: `structure` (modules or masks in the model), `loss`, `optimizer`, `schedule`; of the last
    three a run may hold one each. `needs_teacher` asks the run for a `teacher:` or stored `targets:`. `persistent` says that
    the stored model keeps the method's modules, so that loading calls `restore`.
    """

    name: str
    version: int
    config: type[MethodConfig]
    implementation: str
    changes: frozenset[str]
    needs_teacher: bool
    persistent: bool

    def load(self) -> type:
        """Import and return the class that implements the method."""
        module, _, attribute = self.implementation.partition(":")
        return getattr(importlib.import_module(module), attribute)


_ENTRIES: dict[str, MethodEntry] = {}


def method(
    name: str,
    *,
    version: int,
    implementation: str,
    changes: set[str],
    needs_teacher: bool = False,
    persistent: bool = False,
):
    """Register the decorated configuration class as the method `name`.

    Raises ValueError for a name taken twice or an unknown entry of `changes`: both are mistakes of the programmer.
    """
    if changes - CHANGES:
        raise ValueError(f"method '{name}' changes {sorted(changes - CHANGES)}; known: {sorted(CHANGES)}")

    def register(config: type[MethodConfig]) -> type[MethodConfig]:
        if name in _ENTRIES:
            raise ValueError(f"method '{name}' is registered twice")
        _ENTRIES[name] = MethodEntry(
            name, version, config, implementation, frozenset(changes), needs_teacher, persistent
        )
        return config

    return register


@cache
def entries() -> dict[str, MethodEntry]:
    """Return every registered method by name, importing the families' configurations once."""
    package = "replica.methods"
    for family in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if family.ispkg:
            importlib.import_module(f"{package}.{family.name}.config")
    return _ENTRIES


def entry(name: str) -> MethodEntry:
    """Return the registered method `name`; raises ConfigError with the nearest known name."""
    known = entries()
    if name not in known:
        raise ConfigError(f"unknown method '{name}'{nearest(name, known)}")
    return known[name]


def parse(reference: dict[str, Any] | str) -> tuple[MethodEntry, MethodConfig]:
    """Turn `{name: m, field: value…}` (or a bare name) into the method and its validated configuration.

    Raises ConfigError naming the key at fault.
    """
    reference = {"name": reference} if isinstance(reference, str) else dict(reference)
    if "name" not in reference:
        raise ConfigError(f"a method needs a `name`: {reference}")
    found = entry(reference.pop("name"))
    try:
        return found, found.config(**reference)
    except ValidationError as error:
        raise ConfigError(f"method '{found.name}': {explain(error, found.config)}") from None


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """Say in one line what a pydantic validation found, with the nearest known key for an unknown one."""
    parts = []
    for item in error.errors():
        where = ".".join(str(step) for step in item["loc"]) or "value"
        if item["type"] == "extra_forbidden":
            parts.append(f"unknown key '{where}'{nearest(str(item['loc'][-1]), _known_keys(model, item['loc'][:-1]))}")
        else:
            parts.append(f"{where}: {item['msg']} (got {item.get('input')!r})"[:300])
    return "; ".join(parts)


def _known_keys(model: type[BaseModel], path: tuple) -> list[str]:
    fields = model.model_fields
    for step in path:
        if step not in fields:
            continue
        annotation = fields[step].annotation
        inner = [a for a in (annotation, *getattr(annotation, "__args__", ())) if isinstance(a, type)]
        nested = [a for a in inner if issubclass(a, BaseModel)]
        if nested:
            fields = nested[0].model_fields
    return [f.alias or name for name, f in fields.items()]
