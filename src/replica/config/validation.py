"""Validation of configuration by pydantic models, with errors that name the file, the key and the nearest known key."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from replica.errors import ConfigError, nearest

Model = TypeVar("Model", bound=BaseModel)


def validate(model: type[Model], value: Any, where: str) -> Model:
    """Return `value` as `model`; raises ConfigError that names file and key, with the nearest known key."""
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: expected a mapping, got {type(value).__name__}")
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise ConfigError(f"{where}: {explain(error, model)}") from None


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """Return pydantic's errors in one line, with the nearest known key for an unknown one."""
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
