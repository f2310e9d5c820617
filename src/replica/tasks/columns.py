"""Columns of a data set as a task's inputs and targets: texts, classes and images; and encodings as columns of numbers."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from replica.errors import ConfigError, nearest

if TYPE_CHECKING:
    import pyarrow as pa

    from replica.config.task_schema import Task

Columns = dict[str, list[Any]]

#: Label of a position where no word is predicted.
IGNORED = -100


class RowError(ConfigError):
    """A value cannot be encoded; `prepare` adds which row of which split it stands in."""

    def __init__(self, message: str, row: int):
        super().__init__(message)
        self.row = row


def column(table: pa.Table, name: str, where: str, *, nulls: bool = False) -> list[Any]:
    """Return a column's values; of `a.b` those of field b in column a, where that holds one or a list of such, of `a.0` its first.

    Raises ConfigError with the nearest known column or field, and RowError for a null or a list with one, unless `nulls` are allowed.
    """
    first, *fields = [name] if name in table.column_names else name.split(".")
    if first not in table.column_names:
        raise ConfigError(f"{where}: no column '{name}'{nearest(name, table.column_names)}")
    values = table.column(first).to_pylist()
    for field in fields:
        values = [value if value is None else _field(value, field, where) for value in values]
    if not nulls:
        for row, value in enumerate(values):
            if _has_null(value):
                raise RowError(f"{where}: column '{name}' holds {'a list with a null' if value else 'a null'}", row)
    return values


def _has_null(value: Any) -> bool:
    if not isinstance(value, list):
        return value is None
    return None in value or (bool(value) and isinstance(value[0], list) and any(map(_has_null, value)))


def _field(value: Any, name: str, where: str) -> Any:
    if isinstance(value, list):
        if not name.isdigit():
            return [_field(part, name, where) for part in value]
        if int(name) < len(value):
            return value[int(name)]
    if not isinstance(value, dict) or name not in value:
        known = value if isinstance(value, dict) else []
        raise ConfigError(f"{where}: no field '{name}' in {value!r:.80}{nearest(name, known)}")
    return value[name]


def inputs(task: Task, table: pa.Table) -> list[list[Any]]:
    """Return the values of each input column."""
    return [column(table, name, f"task '{task.name}', inputs") for name in task.inputs]


def texts(task: Task, table: pa.Table, name: str) -> list[str]:
    """Return the texts of an input column; RowError for a value that is none."""
    values = column(table, name, f"task '{task.name}', inputs")
    for row, value in enumerate(values):
        require(isinstance(value, str), task, name, value, "a text", row)
    return values


def require(holds: bool, task: Task, name: str, value: Any, wanted: str, row: int) -> None:
    """Raise RowError where a value of a column is not what a kind of task needs."""
    if not holds:
        raise RowError(
            f"task '{task.name}', column '{name}': {value!r:.60}, where kind {task.kind} needs {wanted}", row
        )


def target(task: Task, table: pa.Table) -> list[Any]:
    """Return the values of the target column; raises ConfigError for a task without one."""
    if task.target is None:
        raise ConfigError(f"task '{task.name}': kind {task.kind} needs a `target` column")
    return column(table, task.target, f"task '{task.name}', target")


def label_index(task: Task, value: Any, row: int) -> int:
    """Return the number of a label, itself a whole number or a name; raises RowError for one that the task does not have."""
    allowed = task.only.get(task.target or "", [])
    if value in allowed:
        return allowed.index(value)
    where = f"task '{task.name}', column '{task.target}':"
    if isinstance(value, str):
        if value not in task.labels:
            raise RowError(f"{where} unknown label '{value}'{nearest(value, task.labels)}", row)
        return task.labels.index(value)
    if not isinstance(value, (int, float)) or value != value or value not in range(task.class_count):
        raise RowError(
            f"{where} label {value!r:.60} is not one of the {task.class_count} of `{'labels' if task.labels else 'classes'}` "
            f"(0 to {task.class_count - 1}; -1 marks hidden labels)",
            row,
        )
    return int(value)


def token_columns(encodings: list[Any], pair: bool) -> Columns:
    """Return `input_ids`, and `token_type_ids` for pairs whose tokenizer marks the second segment."""
    columns: Columns = {"input_ids": [encoding.ids for encoding in encodings]}
    if pair:
        types = [encoding.type_ids for encoding in encodings]
        if any(any(row) for row in types):
            columns["token_type_ids"] = types
    return columns


def decoded(task: Task, name: str, value: Any, row: int) -> np.ndarray:
    """Return the pixels of a cell, an image; RowError where it holds none."""
    from PIL import Image

    try:
        return image_pixels(value)
    except (OSError, ValueError, TypeError, OverflowError, SyntaxError, Image.DecompressionBombError) as error:
        raise RowError(f"task '{task.name}', column '{name}': no image that can be read ({error})", row) from None


def image_pixels(value: Any) -> np.ndarray:
    """Return uint8 pixels (channels, height, width) of an encoded image or of nested lists of numbers."""
    raw = value.get("bytes") if isinstance(value, dict) else value
    if isinstance(raw, bytes):
        from PIL import Image

        image = Image.open(io.BytesIO(raw))
        array = np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))
    else:
        array = np.asarray(raw, dtype=np.uint8)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def resized(image: np.ndarray, channels: int, size: int) -> np.ndarray:
    """Return an image's pixels at `size` by `size`, grey repeated to `channels`."""
    from PIL import Image

    image = np.repeat(image, channels, axis=0) if image.shape[0] == 1 else image
    picture = Image.fromarray(image.transpose(1, 2, 0).squeeze())
    return image_pixels(np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR)))
