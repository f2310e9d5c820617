"""The base of all configuration: unknown keys, truth values for numbers, and numbers that are not finite are errors. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

#: A name of a registry, which is also that of a folder: it cannot begin with a dot, and holds no slash.
NAME = r"^[a-z0-9][a-z0-9.-]{0,79}$"
NAME_WORDS = "lower-case letters, digits, `-` and `.`, the first a letter or a digit, at most 80"
Name = Annotated[str, Field(pattern=NAME)]
#: An id of a paper's claim, table or figure.
Id = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,79}$")]
#: How many seeds; a run is planned for each.
Seeds = Annotated[int, Field(ge=1, le=1000)]
#: A seed as every library takes it.
Seed = Annotated[int, Field(ge=0, lt=2**32)]
#: A count of steps, rows, tokens or bytes, beyond which a number is a slip of the pen.
Count = Annotated[int, Field(ge=1, le=10**9)]


class Strict(BaseModel):
    """Unknown keys are errors; a configuration does not change after it was read."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_value_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        if _holds_bool(value) and not _takes_bool(cls.model_fields[str(info.field_name)].annotation):
            raise ValueError(
                "true and false (also written yes, no, on, off) are no number and no text; put text into quotes"
            )
        return value


def _holds_bool(value: Any) -> bool:
    if isinstance(value, dict | list | tuple):
        return any(map(_holds_bool, value.values() if isinstance(value, dict) else value))
    return isinstance(value, bool)


def _takes_bool(annotation: Any) -> bool:
    """Return whether a type has a place for a truth value; models check their own fields."""
    if annotation in (bool, Any) or (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return True
    return any(map(_takes_bool, get_args(annotation)))
