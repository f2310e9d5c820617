"""Preparing a task: a data set's rows become parquet files of token ids, once per tokenizer and length."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from replica.assets import manifest
from replica.errors import ConfigError
from replica.files import atomic_folder, write_json
from replica.tasks import kinds
from replica.tasks.columns import RowError
from replica.tasks.prepared import EXAMPLES, FACTS
from replica.tasks.splits import read_splits
from replica.tasks.tokenizer import TextTokenizer

if TYPE_CHECKING:
    from replica.config.task_schema import Task

#: Column: its type in the prepared parquet files. Every file has `example_id` (0… in order, unique per split), `row`
#: (the row of the data set's split that it comes from) and `length` (tokens; for images 1). The others by kind: all
#: but image `input_ids`, for pairs `token_type_ids`; classification, regression, image `label`; tagging `labels`
#: (-100 where no word starts); span `start`, `end`, `offset_start`, `offset_end`, with questions in
#: `{split}.examples.parquet`; mlm with pairs `next_sentence_label`; text2text `labels` (target ids), `label` (class
#: or -1), `value` (number or NaN), `references`, and with `images` either `pixels` or `features` with their `shape`; completion the
#: same, with `labels` as long as `input_ids`; image `pixels` (channels, height, width).
TYPES = {
    "example_id": pa.int64(),
    "row": pa.int64(),
    "length": pa.int32(),
    "input_ids": pa.list_(pa.int32()),
    "token_type_ids": pa.list_(pa.int8()),
    "labels": pa.list_(pa.int32()),
    "start": pa.int32(),
    "end": pa.int32(),
    "offset_start": pa.list_(pa.int32()),
    "offset_end": pa.list_(pa.int32()),
    "next_sentence_label": pa.int64(),
    "value": pa.float64(),
    "references": pa.list_(pa.string()),
    "pixels": pa.list_(pa.uint8()),
    "features": pa.list_(pa.float16()),
    "shape": pa.list_(pa.int32()),
}


def prepare(
    task: Task,
    dataset_folder: Path | str,
    tokenizer_folder: Path | str,
    out_folder: Path | str,
    max_length: int | None = None,
    inputs: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Write a task's prepared splits and return their facts.

    The out folder gets `train.parquet`, `select.parquet` and, if the task has one, `report.parquet` (columns: `TYPES`);
    `facts.json` with kind, labels, max_length, rows and the tokenizer's facts; where texts are generated the
    tokenizer; and the sealed `manifest.json`. It takes the folder's place in one step. `max_length`
    cuts the task's own; `inputs` (name → sha256 of a manifest) go into the manifest's seal.

    Raises AssetError for missing splits or tokenizers; ConfigError for columns that are not there, for a split without an example,
    and, naming the first row, for nulls, labels that the task does not have, and values that its kind cannot encode.
    """
    length = min(task.max_length, max_length or task.max_length)
    tables = read_splits(task, dataset_folder)
    kind = kinds.of(task)
    kind.check(task)
    tokenizer = TextTokenizer.read(tokenizer_folder) if kind.tokenized else None
    facts: dict[str, Any] = {
        "task": task.name,
        "version": task.version,
        "kind": task.kind,
        "labels": kind.label_count(task),
        "max_length": length,
        "tokenizer": tokenizer.facts if tokenizer else None,
        "rows": {},
        "tokens": {},
    }
    with atomic_folder(out_folder) as folder:
        for split, (table, source_rows) in tables.items():
            try:
                encoded = kind.encode(
                    task, table, tokenizer, length, train=split == "train", asset=Path(tokenizer_folder)
                )
            except RowError as error:
                raise ConfigError(f"{error}: row {source_rows[error.row]} of its {split} split") from None
            count = len(encoded.rows)
            if not count:
                raise ConfigError(f"task '{task.name}': its {split} split would be empty: no row has a text to encode")
            lengths = [len(ids) for ids in encoded.columns["input_ids"]] if kind.tokenized else [1] * count
            columns = {
                "example_id": range(count),
                "row": source_rows[np.asarray(encoded.rows, dtype=np.int64)],
                "length": lengths,
                **encoded.columns,
            }
            pq.write_table(_table(columns), folder / f"{split}.parquet", compression="zstd")
            if (examples := encoded.examples) is not None:
                examples["row"] = source_rows[examples["row"].to_numpy()]
                examples.to_parquet(folder / f"{split}.{EXAMPLES}.parquet", compression="zstd")
            facts["rows"][split], facts["tokens"][split] = count, int(sum(lengths))
            for key, value in encoded.facts.items():
                known = facts.setdefault(key, value)
                facts[key] = max(known, value) if isinstance(value, (bool, int)) else known
                if not isinstance(value, (bool, int)) and known != value:
                    raise ConfigError(f"task '{task.name}': {key} of split {split} is {value}, of the others {known}")
        if kind.generated:
            tokenizer.backend.save(str(folder / "tokenizer.json"))
        write_json(folder / FACTS, facts)
        manifest.write(folder, {"inputs": inputs or {}}, name=Path(out_folder).name)
    return facts


def _table(columns: dict[str, Any]) -> pa.Table:
    arrays = {}
    for name, values in columns.items():
        kind = TYPES.get(name)
        if name == "label":
            values = np.asarray(values)
            kind = pa.float64() if values.dtype.kind == "f" else pa.int64()
        arrays[name] = pa.array(values, type=kind)
    return pa.table(arrays)
