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

from pydantic import ValidationError

from replica.config.strict import Strict
from replica.config.validation import explain
from replica.errors import ConfigError, nearest

if TYPE_CHECKING:
    from replica.methods.base import Method

#: The parts of training that a method may act on, each with its place in the order in which a run lists its methods (None: any).
CHANGES: dict[str, int | None] = {
    "layers": 0,  # layers of other kinds in place of the model's own
    "modules": 1,  # modules added to it
    "trainable": 1,  # all parameters are frozen but those that the method chooses
    "frozen": 2,  # named parameters are frozen
    "maps": 2,  # trained maps to a teacher's states
    "masks": 3,  # masks or gates on weights, and removal of parts
    "quantization": 4,
    "loss": None,
    "optimizer": None,
    "schedule": None,
}
#: Those that one method of a run may change, with the words of the error where two do.
EXCLUSIVE = {
    "layers": "replace layers of the model",
    "trainable": "decide which parameters train",
    "masks": "mask weights",
    "loss": "change the loss",
    "optimizer": "change the optimizer",
    "schedule": "change the schedule",
}


class MethodConfig(Strict):
    """Base of every method's configuration."""

    def changed(self, declared: frozenset[str]) -> frozenset[str]:
        """Return the parts of training that the method acts on with these options: those it declares, by default."""
        return declared


@dataclass(frozen=True)
class MethodEntry:
    """A registered method.

    `changes` lists the parts of training that it acts on (`CHANGES`); at most one method of a run may change each part in `EXCLUSIVE`.
    `excludes` maps a reason to the parts and the names of methods that it cannot be combined with. With `needs_teacher` the run must
    have a `teacher:` or stored `targets:`. The stored model of a `persistent` method keeps its modules, and loading calls `restore`.

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
    excludes: tuple[tuple[str, frozenset[str]], ...] = ()

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
    excludes: dict[str, str] | None = None,
) -> Callable[[type[MethodConfig]], type[MethodConfig]]:
    """Register the decorated configuration class as the method `name`.

    `reported`, `recorded` and `costs` are keys with spaces between them, `excludes` maps a reason to such names (see `MethodEntry`).
    Raises ValueError for a name taken twice or an unknown entry of `changes`: both are mistakes of the programmer.
    """
    if changes - CHANGES.keys():
        raise ValueError(f"method '{name}' changes {sorted(changes - CHANGES.keys())}; known: {sorted(CHANGES)}")

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
            tuple((reason, frozenset(_words(names))) for reason, names in (excludes or {}).items()),
        )
        return config

    return register


@cache
def entries() -> dict[str, MethodEntry]:
    """Return every registered method by name, importing their configurations once.

    Raises ValueError for a method's folder that is incomplete or is not named as its method, with `_` for `-`.
    """
    modules = [path for name in ("config", "method") for path in Path(__file__).parent.glob(f"[!.]*/[!.]*/{name}.py")]
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
    if not isinstance(name, str) or name not in known:
        raise ConfigError(f"unknown method {name!r:.80}{nearest(name, known)}")
    return known[name]


def parse(reference: dict[str, Any] | str) -> tuple[MethodEntry, MethodConfig]:
    """Turn `{name: m, field: value…}` (or a bare name) into the method and its validated configuration.

    Raises ConfigError naming the key at fault.
    """
    reference = {"name": reference} if isinstance(reference, str) else dict(reference)
    if "name" not in reference:
        raise ConfigError(f"a method needs a `name`: {reference!r:.200}")
    registered = entry(reference.pop("name"))
    try:
        return registered, registered.config.model_validate(reference)
    except ValidationError as error:
        raise ConfigError(f"method '{registered.name}': {explain(error, registered.config)}") from None


def parse_all(references: Iterable[dict[str, Any] | str]) -> list[tuple[MethodEntry, MethodConfig]]:
    """Parse the methods of one run, in their order.

    Raises ConfigError for a method listed twice, for two that change the same part of training or exclude each other, and for one that
    comes after a method which acts on the model that it leaves.
    """
    methods: list[tuple[MethodEntry, MethodConfig]] = []
    for reference in references:
        method, config = parse(reference)
        changed = config.changed(method.changes)
        for other, other_config in methods:
            _check_pair(other, other_config.changed(other.changes), method, changed)
        methods.append((method, config))
    return methods


def _check_pair(
    first: MethodEntry, first_changed: frozenset[str], second: MethodEntry, changed: frozenset[str]
) -> None:
    if first is second:
        raise ConfigError(f"method '{second.name}' is listed twice")
    for part in sorted(first_changed & changed & EXCLUSIVE.keys()):
        raise ConfigError(f"methods '{first.name}' and '{second.name}' both {EXCLUSIVE[part]}; list one of them")
    for one, other, parts in ((first, second, changed), (second, first, first_changed)):
        for reason, names in one.excludes:
            if names & {other.name, *parts}:
                raise ConfigError(f"methods '{first.name}' and '{second.name}' cannot act in one run: {reason}")
    places = [
        min((place for part in parts if (place := CHANGES[part]) is not None), default=None)
        for parts in (first_changed, changed)
    ]
    if None not in places and places[0] > places[1]:
        raise ConfigError(f"list '{second.name}' before '{first.name}', which acts on the model that it leaves")
