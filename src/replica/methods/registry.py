"""The registry of methods: names, versions and configurations, known without importing torch.

A method is a folder `methods/<family>/<method>/` with two modules: `config.py`, a pydantic configuration registered here by name and
version, and `method.py`, the class that does the work, which is imported when a run needs it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from replica.config.validation import explain
from replica.errors import ConfigError, nearest

if TYPE_CHECKING:
    from replica.methods.base import Method

#: The parts of training that one method of a run may change, with the words of the error where two do.
EXCLUSIVE = {
    "trainable": "decide which parameters train",
    "loss": "change the loss",
    "optimizer": "change the optimizer",
    "schedule": "change the schedule",
}
CHANGES = {"structure", *EXCLUSIVE}


class MethodConfig(BaseModel):
    """Base of every method's configuration: unknown keys are errors and values cannot be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def changed(self, declared: frozenset[str]) -> frozenset[str]:
        """Return the parts of training that the method acts on with these options: those it declares, by default."""
        return declared


@dataclass(frozen=True)
class MethodEntry:
    """A registered method.

    `changes` lists the parts of training that it acts on: `structure` (modules or masks in the model), `trainable` (it freezes all
    parameters but those it chooses), `loss`, `optimizer`, `schedule`; at most one method of a run may change each of the last four.
    With `needs_teacher` the run must have a `teacher:` or stored `targets:`. The stored model of a `persistent` method keeps its
    modules, and loading calls `restore`.

    `reported`, `recorded` and `costs` are the dotted keys that `reported`, the lines of the history and `cost` give, `*` being any
    text: papers may name these and no others.
    """

    name: str
    version: int
    config: type[MethodConfig]
    changes: frozenset[str]
    needs_teacher: bool
    persistent: bool
    reported: tuple[str, ...] = ()
    recorded: tuple[str, ...] = ()
    costs: tuple[str, ...] = ()

    @property
    def family(self) -> str:
        """Name of the folder `methods/<family>` that holds the method."""
        return self.config.__module__.split(".")[2]

    @property
    def module(self) -> str:
        """Name of the module of the method's class: `method` in the folder of its configuration."""
        return f"{self.config.__module__.rpartition('.')[0]}.method"

    def load(self) -> type[Method]:
        """Import and return the class that implements the method: the one subclass of `Method` that its `method.py` defines."""
        from replica.methods.base import Method

        classes = [
            value
            for value in vars(importlib.import_module(self.module)).values()
            if isinstance(value, type) and issubclass(value, Method) and value.__module__ == self.module
        ]
        if len(classes) != 1:
            names = [value.__name__ for value in classes]
            raise TypeError(f"{self.module} must define one subclass of Method, it defines {names}")
        return classes[0]

    def create(self, config: MethodConfig) -> Method:
        """Return the method with this configuration; its `name` is the registered one."""
        method = self.load()(config)
        method.name = self.name
        return method


_ENTRIES: dict[str, MethodEntry] = {}


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def method(
    name: str,
    *,
    version: int,
    changes: set[str],
    needs_teacher: bool = False,
    persistent: bool = False,
    reported: str = "",
    recorded: str = "",
    costs: str = "",
) -> Callable[[type[MethodConfig]], type[MethodConfig]]:
    """Register the decorated configuration class as the method `name`.

    `reported`, `recorded` and `costs` are keys with spaces between them (see `MethodEntry`). Raises ValueError for a name taken twice
    or an unknown entry of `changes`: both are mistakes of the programmer.
    """
    if changes - CHANGES:
        raise ValueError(f"method '{name}' changes {sorted(changes - CHANGES)}; known: {sorted(CHANGES)}")

    def register(config: type[MethodConfig]) -> type[MethodConfig]:
        if name in _ENTRIES:
            raise ValueError(f"method '{name}' is registered twice")
        _ENTRIES[name] = MethodEntry(
            name,
            version,
            config,
            frozenset(changes),
            needs_teacher,
            persistent,
            *map(_words, (reported, recorded, costs)),
        )
        return config

    return register


@cache
def entries() -> dict[str, MethodEntry]:
    """Return every registered method by name, importing their configurations once.

    Raises ValueError for a method's folder that is incomplete or is not named as its method, with `_` for `-`.
    """
    modules = [path for name in ("config", "method") for path in Path(__file__).parent.glob(f"*/*/{name}.py")]
    for folder in sorted({path.parent for path in modules}):
        _register_folder(folder)
    return _ENTRIES


def _register_folder(folder: Path) -> None:
    missing = [name for name in ("config.py", "method.py") if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder}: a method's folder has config.py and method.py; {missing[0]} is missing")
    config = f"replica.methods.{folder.parent.name}.{folder.name}.config"
    importlib.import_module(config)
    name = folder.name.replace("_", "-")
    if name not in _ENTRIES or _ENTRIES[name].config.__module__ != config:
        raise ValueError(
            f"{folder}/config.py must register the method '{name}', as its folder is named: @method(\"{name}\", …)"
        )


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
    registered = entry(reference.pop("name"))
    try:
        return registered, registered.config(**reference)
    except ValidationError as error:
        raise ConfigError(f"method '{registered.name}': {explain(error, registered.config)}") from None


def parse_all(references: Iterable[dict[str, Any] | str]) -> list[tuple[MethodEntry, MethodConfig]]:
    """Parse the methods of one run, in their order.

    Raises ConfigError for a method listed twice, and for two that change the same part of training.
    """
    methods: list[tuple[MethodEntry, MethodConfig]] = []
    for reference in references:
        method, config = parse(reference)
        for other, other_config in methods:
            if other is method:
                raise ConfigError(f"method '{method.name}' is listed twice")
            for part in config.changed(method.changes) & other_config.changed(other.changes) & EXCLUSIVE.keys():
                raise ConfigError(
                    f"methods '{other.name}' and '{method.name}' both {EXCLUSIVE[part]}; list one of them"
                )
        methods.append((method, config))
    return methods
