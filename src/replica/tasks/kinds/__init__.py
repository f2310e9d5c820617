"""Kinds of task by name: each module here defines one class with the name of the module. Imports no torch, pandas or pyarrow."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING

from replica.tasks.kinds.kind import Kind

if TYPE_CHECKING:
    from replica.config.task_schema import Task


def _load() -> dict[str, Kind]:
    names = sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "kind")
    modules = [importlib.import_module(f"{__name__}.{name}") for name in names]
    classes = [getattr(module, name.capitalize()) for name, module in zip(names, modules, strict=True)]
    return {name: kind() for name, kind in zip(names, classes, strict=True)}


#: Every kind by its name, which is that of its module and, capitalised, of its class.
KINDS = _load()


def of(task: Task) -> Kind:
    """Return a task's kind."""
    return KINDS[task.kind]
