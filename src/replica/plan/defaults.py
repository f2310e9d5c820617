"""The settings that a run's id leaves out: those at the default that they had when they were first recorded. Imports no torch.

An id must not change when an option is added whose default is what was done before, and must change when a default changes. So each
option's first default is recorded in `defaults.json`, and a specification leaves an option out at that value, whatever its default is
today. `make schema` records new options; it never replaces a value.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from replica.files import read_json, write_json

RECORD = Path(__file__).with_name("defaults.json")


def specified(model: BaseModel, kind: str) -> dict[str, Any]:
    """Return the settings that enter a run's specification; `kind` names the model's class in the record (`train`, `task`, a method)."""
    values = model.model_dump(exclude_defaults=True, mode="json")
    today = defaults(type(model))
    for key, first in recorded().get(kind, {}).items():
        if key in today and today[key] != first:  # the default has changed since
            value = model.model_dump(include={key}, mode="json")[key]
            values = {
                **{name: old for name, old in values.items() if name != key},
                **({} if value == first else {key: value}),
            }
    return values


def defaults(model: type[BaseModel]) -> dict[str, Any]:
    """Return the defaults of a class's fields as JSON; fields without one are left out."""
    return model.model_construct().model_dump(mode="json", warnings=False)


@cache
def recorded() -> dict[str, dict[str, Any]]:
    """Return the recorded defaults by kind and option."""
    return read_json(RECORD)


def kinds() -> dict[str, type[BaseModel]]:
    """Return the classes whose settings enter runs' ids, by the name of their kind."""
    from replica.config.schema import Train
    from replica.config.task_schema import Task
    from replica.methods import registry

    return {"train": Train, "task": Task, **{name: entry.config for name, entry in registry.entries().items()}}


def record() -> dict[str, dict[str, Any]]:
    """Return the record with the options that it lacks."""
    known = recorded() if RECORD.exists() else {}
    return {kind: {**defaults(model), **known.get(kind, {})} for kind, model in sorted(kinds().items())}


def write() -> None:
    """Add the options to the record that it lacks."""
    write_json(RECORD, record())
