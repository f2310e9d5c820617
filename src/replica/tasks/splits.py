"""Splits of a task: the data set's own, and those set apart by a stable hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from replica.config.task_schema import HeldOut
from replica.errors import AssetError, ConfigError, nearest
from replica.tasks.columns import column

if TYPE_CHECKING:
    from replica.config.task_schema import Task

#: Enters the hash of held-out rows, so that they never move.
_SALT = b"replica-held-out"
#: The same for `rows`: another one, or the rows of a part would depend on the rows that were set apart from it.
_SALT_ROWS = b"replica-rows"


def held_out(values: Iterable[Any], share: float) -> np.ndarray:
    """Return for each value whether it is set apart: its 64-bit hash lies below `share`.

    Equal values go the same way, and a row's side does not depend on the other rows.
    """
    limit = int(share * 2**64)
    return np.array([_number(value) < limit for value in values], dtype=bool)


def _number(value: Any, salt: bytes = _SALT) -> int:
    return int.from_bytes(hashlib.blake2b(str(value).encode(), digest_size=8, key=salt).digest(), "big")


def read_splits(task: Task, folder: Path | str) -> dict[str, tuple[pa.Table, np.ndarray]]:
    """Read a task's train, select and report rows: per split a table and the rows' numbers in the data set's split.

    A held-out `select` leaves `train` and, if that reads the same split, `report`. `a+b` joins two splits. Rows that `only` does not
    keep are in none of them; `rows` leaves at most so many in a part.
    Raises AssetError for a missing split and ConfigError when a part is empty.
    """
    folder = Path(folder)
    names = {"train": task.splits.train, "select": task.splits.select, "report": task.splits.report}
    source = task.splits.select.source if isinstance(task.splits.select, HeldOut) else None
    tables = {name: _read(folder, name) for name in {n for n in (*names.values(), source) if isinstance(n, str)}}
    apart = _apart(task, tables[source]) if source is not None else None
    splits = {}
    for part, name in names.items():
        if name is None:
            continue
        table = tables[source] if isinstance(name, HeldOut) else tables[name]
        rows = np.arange(table.num_rows)
        if isinstance(name, HeldOut):
            rows = rows[apart]
        elif name == source:
            rows = rows[~apart]
        for name_of_column, allowed in task.only.items():
            values = column(table, name_of_column, f"task '{task.name}', only", nulls=True)
            rows = rows[[values[row] in allowed for row in rows]]
        limit = task.rows.get(part)
        if limit is not None and len(rows) > limit:
            rows = np.sort(rows[np.argsort([_number(row, _SALT_ROWS) for row in rows], kind="stable")[:limit]])
        if not len(rows):
            raise ConfigError(f"task '{task.name}': its {part} split would be empty ({name})")
        splits[part] = (table.take(pa.array(rows)), rows)
    return splits


def _apart(task: Task, table: pa.Table) -> np.ndarray:
    by = task.splits.select.by
    if by is None:
        return held_out(range(table.num_rows), task.splits.select.share)
    return held_out(column(table, by, f"task '{task.name}', splits.select.by"), task.splits.select.share)


def _read(folder: Path, name: str) -> pa.Table:
    tables = []
    for part in name.split("+"):
        path = folder / f"{part}.parquet"
        if not path.is_file():
            known = [p.stem for p in folder.glob("*.parquet")]
            raise AssetError(f"{folder} has no split '{part}'{nearest(part, known)}")
        try:
            tables.append(pq.read_table(path))
        except (pa.ArrowInvalid, OSError) as error:
            raise AssetError(f"{path} is not readable as parquet: {error}") from None
    return tables[0] if len(tables) == 1 else pa.concat_tables(tables, promote_options="default")
