"""Validation of configuration by pydantic models, with errors that name the file, the key and the nearest known key."""

from __future__ import annotations

import re
from collections.abc import Container
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from replica.errors import ConfigError, nearest

Model = TypeVar("Model", bound=BaseModel)
#: Most errors of one mapping that a message holds.
MOST_SHOWN = 4


def validate(model: type[Model], value: Any, where: str) -> Model:
    """Return `value` as `model`; raises ConfigError that names file and key, with the nearest known key."""
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: expected a mapping, got {type(value).__name__}")
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise ConfigError(f"{where}: {explain(error, model)}") from None


def explain(error: ValidationError, model: type[BaseModel], only: Container[str] | None = None) -> str:
    """Return pydantic's errors in one line, with the nearest known word for an unknown key or value.

    With `only` only errors of these keys, as where a mapping has a part of the model's keys; an empty text where there are none.
    """
    errors = [item for item in error.errors() if only is None or (item["loc"] and item["loc"][0] in only)]
    parts: list[str] = []
    for item in errors[:MOST_SHOWN]:
        path, value = [str(step) for step in item["loc"]] or ["value"], item.get("input")
        where = ".".join(path)[:120]
        if item["type"] == "extra_forbidden":
            parts.append(f"unknown key '{where}'{nearest(path[-1], _known_keys(model, path[:-1]))}")
            continue
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "literal_error" and isinstance(value, str):
            message += nearest(value, re.findall(r"'([^']*)'", item["ctx"]["expected"]), listed=False)
        got = (
            ""
            if item["type"] == "missing" or (isinstance(value, dict) and item["type"] == "value_error")
            else f" (got {_shown(value)})"
        )
        parts.append(f"{where}: {message[:400]}{got}")
    more = len(errors) - len(parts)
    return "; ".join([*parts, *([f"and {more} more"] if more else [])])


def _shown(value: Any) -> str:
    text = " ".join(repr(value)[:1000].split())
    return text if len(text) <= 80 else f"{text[:80]}…"


def _known_keys(model: type[BaseModel], path: list[str]) -> list[str]:
    """Return the keys of the models at a path of keys, names of types and numbers of items."""
    models = [model]
    for step in path:
        fields = [field for one in models for name, field in one.model_fields.items() if step in (name, field.alias)]
        models = [inner for field in fields for inner in _models(field.annotation)] or models
    return [field.alias or name for one in models for name, field in one.model_fields.items()]


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]
