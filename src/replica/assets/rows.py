"""Rows of a data set, whatever brought them: their canonical hash, and Parquet in and out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from replica.errors import AssetError

BATCH_ROWS = 10_000


@dataclass(frozen=True)
class Rows:
    """One split: its columns' types, and a function that gives its rows anew in batches."""

    schema: pa.Schema
    batches: Callable[[], Iterator[pa.RecordBatch]]

    @classmethod
    def of(cls, rows: list[dict[str, Any]], schema: pa.Schema) -> Rows:
        """Wrap rows that are in memory."""
        table = pa.Table.from_pylist(rows, schema=schema)
        return cls(schema, lambda: iter(table.to_batches(max_chunksize=BATCH_ROWS)))

    @classmethod
    def from_parquet(cls, paths: list[Path], source: str) -> Rows:
        """Read Parquet files in the order given; AssetError where one is truncated or no Parquet."""
        schemas = []
        for path in paths:
            try:
                schemas.append(pq.read_schema(path).remove_metadata())
            except pa.ArrowInvalid as error:
                raise AssetError(f"{source}: {path.name} is truncated or no Parquet file ({_line(error)})") from None
        if any(schema != schemas[0] for schema in schemas[1:]):
            raise AssetError(f"{source}: the parts of a split have different columns: {[p.name for p in paths]}")

        def batches() -> Iterator[pa.RecordBatch]:
            for path in paths:
                try:
                    with pq.ParquetFile(path) as file:
                        for batch in file.iter_batches(BATCH_ROWS):
                            yield batch.replace_schema_metadata(None)
                except (pa.ArrowInvalid, OSError) as error:
                    if getattr(error, "errno", None):
                        raise
                    raise AssetError(f"{source}: {path.name} is corrupt ({_line(error)})") from None

        return cls(schemas[0], batches)


@dataclass(frozen=True)
class Content:
    """A split's number of rows and their canonical sha256."""

    rows: int
    sha256: str


class RowHash:
    """The canonical hash of rows in order.

    sha256 over ``json.dumps(row, sort_keys=True, ensure_ascii=False, separators=(",", ":")) + "\\n"`` of every row;
    float32 is widened to Python's float, binary values (and image or audio structs of `bytes` and `path`) are replaced by
    the hex sha256 of their bytes. It depends on neither column order, compression nor how rows are cut into files.
    """

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._rows = 0

    def update(self, rows: Iterable[dict[str, Any]]) -> None:
        """Add rows; AssetError for a value that JSON cannot hold."""
        for row in rows:
            plain = {key: _plain(value) for key, value in row.items()}
            try:
                line = json.dumps(plain, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
            except (TypeError, ValueError) as error:
                raise AssetError(f"row {self._rows} has a value without a canonical form ({error})") from None
            self._hash.update((line + "\n").encode("utf-8", "surrogatepass"))
            self._rows += 1

    def content(self) -> Content:
        """Return the number of rows and the hash so far."""
        return Content(self._rows, self._hash.hexdigest())


def write_parquet(rows: Rows, path: Path) -> Content:
    """Write a split to one Parquet file, hashing its rows on the way, and return its content."""
    running = RowHash()
    with pq.ParquetWriter(path, rows.schema, compression="zstd") as writer:
        for batch in rows.batches():
            running.update(batch.to_pylist())
            writer.write_batch(batch)
    return running.content()


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    if isinstance(value, dict):
        if set(value) == {"bytes", "path"} and isinstance(value["bytes"], bytes):
            return hashlib.sha256(value["bytes"]).hexdigest()
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return value


def _line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
