"""Rows of a data set, counted by split while they stream: by condition, distinct values, sums and groups."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from replica.errors import ConfigError, nearest
from replica.meters.options import Options

if TYPE_CHECKING:
    import pyarrow as pa

    from replica.assets.rows import Rows

#: A grouping by more values than this is taken for a mistake.
GROUPS = 1000
#: Key of the counts over several splits.
ALL = "all"

Scalar = bool | int | float | str


class Condition(BaseModel):
    """A condition on a column: `empty` tells whether it is null, an empty text or an empty list."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    empty: bool


class Count(BaseModel):
    """One number over rows: how many, or the distinct values of columns, a column's sum, or how many by columns' values."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    where: dict[str, Condition | Scalar | list[Scalar]] = Field(
        {},
        description="column (dotted inside a struct): its value, one of a list, or {empty: true|false}; all must hold",
    )
    distinct: str | list[str] | None = Field(
        None, description="column, or columns together, whose distinct values count"
    )
    each: Literal["value", "word"] = Field("value", description="distinct: whole values, or words between white space")
    sum: str | None = Field(None, description="column of numbers that is added up; nulls are left out")
    by: str | list[str] | None = Field(
        None, description="column, or columns one below the other, whose values get a count"
    )

    @model_validator(mode="after")
    def _one_kind(self) -> Count:
        if sum(kind is not None for kind in (self.distinct, self.sum, self.by)) > 1:
            raise ValueError("give at most one of distinct, sum and by; without one rows are counted")
        if self.each == "word" and not isinstance(self.distinct, str):
            raise ValueError("`each: word` goes with `distinct` and one column of text")
        return self


class RowsOptions(Options):
    """The options of `count_rows`.

    Rows are streamed and the registry's pins checked; only numbers are stored. The data comes from assets/datasets/<name> where it
    was retrieved, else from the mirror, a generator or a package, never from a network. Where a split is not at hand the measurement
    is {unavailable: reason}, and its claims are not-run for that reason until the files come.
    """

    assumption = "every row of the splits named, as the data set's own files hold them; a row repeated counts again"
    results = {
        "<split>.rows": "rows of the split; `all` has those of several splits",
        "<split>.<count>": "a count's number; with `by` nested numbers by the values of the columns (`null` for none)",
    }

    splits: list[str] = Field([], description="splits of the registry; all of the data set's when empty")
    counts: dict[str, Count] = Field({}, description="more numbers by name")

    @model_validator(mode="after")
    def _names(self) -> RowsOptions:
        if "rows" in self.counts:
            raise ValueError("`rows` is always counted; give a count another name")
        return self

    def keys_of(self, splits: list[str]) -> list[str]:
        """Return the keys of the results for these splits."""
        counts = ["rows", *(f"{name}.*" if count.by is not None else name for name, count in self.counts.items())]
        names = [*splits, ALL] if len(splits) > 1 and ALL not in splits else splits
        return [f"{split}.{count}" for split in names for count in counts]


def count_rows(splits: Mapping[str, list[Rows]], options: RowsOptions) -> dict[str, Any]:
    """Count the rows of each split, which may come in several parts, in one pass over each.

    Returns `{split: {"rows": rows, count: number, …}}`, with `all` over the splits where there are several; a count with
    `by` is nested dictionaries by value, as text (`null` for no value). Sums are floats where a value is one.
    Raises ConfigError for a column that the data does not have, a sum over values that are no numbers, and more than 1,000 groups.
    """
    together = {name: _Counter(name, count) for name, count in _counts(options)}
    counted: dict[str, Any] = {}
    for split, parts in splits.items():
        own = {name: _Counter(name, count) for name, count in _counts(options)}
        for part in parts:
            for count in options.counts.values():
                _check_columns(count, part.schema, split)
            for row in _rows(part):
                for counter in (*own.values(), *together.values()):
                    counter.add(row)
        counted[split] = {name: counter.result() for name, counter in own.items()}
    if len(splits) > 1 and ALL not in counted:
        counted[ALL] = {name: counter.result() for name, counter in together.items()}
    return counted


def _counts(options: RowsOptions) -> list[tuple[str, Count]]:
    return [("rows", Count()), *options.counts.items()]


def _rows(part: Rows) -> Iterator[dict[str, Any]]:
    for batch in part.batches():
        yield from batch.to_pylist()


class _Counter:
    """One count as its rows come in."""

    def __init__(self, name: str, count: Count):
        self.name, self.count = name, count
        self.number: float = 0
        self.seen: set[bytes] = set()
        self.partial: list[float] = []
        self.groups: dict[tuple[str, ...], int] = {}

    def add(self, row: dict[str, Any]) -> None:
        """Take a row into account if it meets the conditions."""
        count = self.count
        if not all(_holds(_value(row, column), wanted) for column, wanted in count.where.items()):
            return
        if count.distinct is not None:
            values = [_value(row, column) for column in _list(count.distinct)]
            parts = str(values[0] or "").split() if count.each == "word" else [values]
            self.seen.update(_digest(part) for part in parts)
        elif count.sum is not None:
            self._add_number(_value(row, count.sum))
        elif count.by is not None:
            key = tuple(_text(_value(row, column)) for column in _list(count.by))
            self.groups[key] = self.groups.get(key, 0) + 1
            if len(self.groups) > GROUPS:
                raise ConfigError(f"rows.{self.name}: `by` makes more than {GROUPS} groups; count them with `distinct`")
        else:
            self.number += 1

    def _add_number(self, value: Any) -> None:
        if value is None:
            return
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ConfigError(f"rows.{self.name}: `sum` of {self.count.sum} meets {value!r}, which is no number")
        if isinstance(value, int):
            self.number += value
            return
        self.partial.append(value)
        if len(self.partial) == 4096:
            self.partial = [math.fsum(self.partial)]

    def result(self) -> Any:
        """Return the number, or nested numbers by value."""
        if self.count.distinct is not None:
            return len(self.seen)
        if self.count.by is None:
            return self.number + math.fsum(self.partial) if self.partial else self.number
        nested: dict[str, Any] = {}
        for key in sorted(self.groups):
            node = nested
            for part in key[:-1]:
                node = node.setdefault(part, {})
            node[key[-1]] = self.groups[key]
        return nested


def _list(columns: str | list[str]) -> list[str]:
    return [columns] if isinstance(columns, str) else columns


def _value(row: Any, column: str) -> Any:
    for part in column.split("."):
        row = row.get(part) if isinstance(row, Mapping) else None
    return row


def _holds(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, Condition):
        return (value is None or value == "" or value == []) is wanted.empty
    return any(value == one and isinstance(value, bool) is isinstance(one, bool) for one in _scalars(wanted))


def _scalars(wanted: Any) -> list[Any]:
    return wanted if isinstance(wanted, list) else [wanted]


def _digest(value: Any) -> bytes:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False, default=repr)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _text(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _check_columns(count: Count, schema: pa.Schema, split: str) -> None:
    """Raise ConfigError for a column that a split does not have, with the nearest that it has."""
    columns = [*count.where, *_list(count.distinct or []), *_list(count.by or []), *([count.sum] if count.sum else [])]
    known = {name for field in schema for name in _names(field)}
    for column in columns:
        if column not in known:
            raise ConfigError(f"rows: split '{split}' has no column '{column}'{nearest(column, known)}")


def _names(field: pa.Field) -> list[str]:
    inner = [field.type.field(i) for i in range(field.type.num_fields)] if str(field.type).startswith("struct<") else []
    return [field.name, *(f"{field.name}.{name}" for part in inner for name in _names(part))]
