"""Preparing a task: a data set's rows become parquet files of token ids, once per tokenizer and length."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from replica.config.heads import GENERATED
from replica.errors import ConfigError
from replica.files import atomic_folder, read_json, sha256_file, write_json
from replica.tasks.encode import IGNORED, Columns, encode_images, encode_tagging, encode_text2text, encode_texts
from replica.tasks.pairs import encode_blocks, encode_pairs
from replica.tasks.prepared import EXAMPLES, FACTS
from replica.tasks.span import encode_spans
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
MANIFEST = "manifest.json"


def prepare(
    task: Task,
    dataset_folder: Path | str,
    tokenizer_folder: Path | str,
    out_folder: Path | str,
    max_length: int | None = None,
) -> dict[str, Any]:
    """Write a task's prepared splits and return their facts.

    The out folder gets `train.parquet`, `select.parquet` and, if the task has one, `report.parquet` (columns: `TYPES`);
    `facts.json` with kind, labels, max_length, rows and what batches need of the tokenizer; where texts are generated the
    tokenizer; and `manifest.json` with every file's sha256. It takes the folder's place in one step. `max_length`
    cuts the task's own.

    Raises AssetError for missing splits or tokenizers, ConfigError for columns or labels that are not there.
    """
    length = min(task.max_length, max_length or task.max_length)
    tables = read_splits(task, dataset_folder)
    tokenizer = None if task.kind == "image" else TextTokenizer.read(tokenizer_folder)
    facts: dict[str, Any] = {
        "task": task.name,
        "version": task.version,
        "kind": task.kind,
        "labels": label_count(task),
        "max_length": length,
        "tokenizer": tokenizer.facts if tokenizer else None,
        "rows": {},
        "tokens": {},
    }
    with atomic_folder(out_folder) as folder:
        for split, (table, source_rows) in tables.items():
            columns, rows, examples, more = _encode(task, table, tokenizer, length, split, tokenizer_folder)
            lengths = [len(ids) for ids in columns["input_ids"]] if "input_ids" in columns else [1] * len(rows)
            columns = {
                "example_id": range(len(rows)),
                "row": source_rows[np.asarray(rows, dtype=np.int64)],
                "length": lengths,
                **columns,
            }
            pq.write_table(_table(columns), folder / f"{split}.parquet", compression="zstd")
            if examples is not None:
                examples["row"] = source_rows[examples["row"].to_numpy()]
                examples.to_parquet(folder / f"{split}.{EXAMPLES}.parquet", compression="zstd")
            facts["rows"][split], facts["tokens"][split] = len(rows), int(sum(lengths))
            for key, value in more.items():
                known = facts.setdefault(key, value)
                facts[key] = max(known, value) if isinstance(value, (bool, int)) else known
                if not isinstance(value, (bool, int)) and known != value:
                    raise ConfigError(f"task '{task.name}': {key} of split {split} is {value}, of the others {known}")
        if task.kind in GENERATED:
            tokenizer.backend.save(str(folder / "tokenizer.json"))
        write_json(folder / FACTS, facts)
        write_json(folder / MANIFEST, {path.name: sha256_file(path) for path in sorted(folder.iterdir())})
    return facts


def _encode(
    task: Task, table: pa.Table, tokenizer: TextTokenizer | None, length: int, split: str, asset: Path | str
) -> tuple[Columns, list[int], pd.DataFrame | None, dict[str, Any]]:
    """Encode one split; returns columns, the table's row of each, questions (span), and facts of this kind."""
    everything = list(range(table.num_rows))
    if task.kind in ("classification", "regression"):
        return encode_texts(task, table, tokenizer, length), everything, None, {}
    if task.kind == "tagging":
        return encode_tagging(task, table, tokenizer, length), everything, None, {}
    if task.kind == "span":
        columns, rows, examples = encode_spans(task, table, tokenizer, length)
        return columns, rows, examples, {"unanswerable": bool((examples["answers"].map(len) == 0).any())}
    if task.kind in GENERATED:
        columns, rows = encode_text2text(task, table, tokenizer, length, split == "train")
        targets = (sum(number != IGNORED for number in labels) for labels in columns["labels"])
        return columns, rows, None, {"target_length": max(targets)}
    if task.kind == "image":
        processor = Path(asset) / "preprocessor_config.json"
        facts = image_processing(read_json(processor) if processor.is_file() else {})
        columns, shape = encode_images(task, table, facts["size"])
        return columns, everything, None, {"image": {**facts, **shape}}
    columns, rows = (encode_pairs if task.next_sentence else encode_blocks)(task, table, tokenizer, length)
    return columns, rows, None, {}


def label_count(task: Task) -> int:
    """Return the size of a task's head: 1 for regression, the number of classes where there are such, else 2.

    Raises ConfigError for classes that are neither named nor counted.
    """
    if task.kind == "regression":
        return 1
    if task.kind in ("classification", "tagging", "image") and not task.class_count:
        raise ConfigError(
            f"config/tasks/{task.name}.yaml: kind {task.kind} needs `labels`, the classes' names in order, or `classes`, their number"
        )
    return task.class_count or 2


def image_processing(config: dict[str, Any]) -> dict[str, Any]:
    """Return size (None: as it is), mean and standard deviation of a preprocessor_config.json; else 0.5 each."""
    size = config.get("size")
    if isinstance(size, dict):
        size = size.get("height", size.get("shortest_edge"))
    return {"size": size, "mean": config.get("image_mean", [0.5]), "std": config.get("image_std", [0.5])}


def _table(columns: dict[str, Any]) -> pa.Table:
    arrays = {}
    for name, values in columns.items():
        kind = TYPES.get(name)
        if name == "label":
            values = np.asarray(values)
            kind = pa.float64() if values.dtype.kind == "f" else pa.int64()
        arrays[name] = pa.array(values, type=kind)
    return pa.table(arrays)
