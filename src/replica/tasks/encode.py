"""Rows of sentence, pair, tagging, text-to-text and image tasks as columns of numbers."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from replica.errors import ConfigError, nearest
from replica.tasks.splits import column

if TYPE_CHECKING:
    from replica.config.schema import Task
    from replica.tasks.tokenizer import TextTokenizer

Columns = dict[str, list[Any]]


def encode_texts(task: Task, table: pa.Table, tokenizer: TextTokenizer, max_length: int) -> Columns:
    """Encode one text or a pair per row, with its class (`label`) or number (`label`, float)."""
    texts = _texts(task, table)
    columns = token_columns(tokenizer.encode(texts, max_length), len(task.inputs) > 1)
    labels = _target(task, table)
    if task.kind == "regression":
        columns["label"] = [float(value) for value in labels]
    else:
        columns["label"] = [label_index(task, value) for value in labels]
    return columns


def encode_tagging(task: Task, table: pa.Table, tokenizer: TextTokenizer, max_length: int) -> Columns:
    """Encode lists of words; a word's tag stands at its first piece and -100 everywhere else."""
    words = column(table, task.inputs[0], f"task '{task.name}', inputs")
    encodings = tokenizer.encode(words, max_length, words=True)
    columns = token_columns(encodings, False)
    columns["labels"] = []
    for encoding, tags in zip(encodings, _target(task, table), strict=True):
        numbers = [label_index(task, tag) for tag in tags]
        labels, previous = [], None
        for word in encoding.word_ids:
            labels.append(-100 if word is None or word == previous else numbers[word])
            previous = word
        columns["labels"].append(labels)
    return columns


def encode_text2text(
    task: Task, table: pa.Table, tokenizer: TextTokenizer, max_length: int, train: bool
) -> tuple[Columns, list[int]]:
    """Encode input and target texts as T5 writes them; return the columns and the table's row of each.

    The input is `prefix` and then `column: value` for every input column; a prefix that ends with a colon is followed
    by the bare text. The target is the label's word, a number rounded to 0.2 (STS-B; Raffel et al. 2020, section
    2.4), or the text itself; of a list of answers each makes a training row, and all are references elsewhere.
    """
    prefix = task.prefix.strip()
    values = [column(table, name, f"task '{task.name}', inputs") for name in task.inputs]
    bare = prefix.endswith(":") and len(task.inputs) == 1
    sources = []
    for row in zip(*values, strict=True):
        shown = [", ".join(map(str, v)) if isinstance(v, list) else str(v) for v in row]
        parts = shown if bare else [f"{name}: {text}" for name, text in zip(task.inputs, shown, strict=True)]
        sources.append(" ".join([prefix, *parts]).strip())
    rows, texts, labels, numbers, references = [], [], [], [], []
    for index, value in enumerate(_target(task, table)):
        label, number, answers = _text_target(task, value)
        for answer in answers if train else answers[:1]:
            rows.append(index)
            texts.append(answer)
            labels.append(label)
            numbers.append(number)
            references.append(answers)
    encoded = token_columns(tokenizer.encode(sources, max_length), False)
    columns: Columns = {name: [cells[row] for row in rows] for name, cells in encoded.items()}
    columns["labels"] = [encoding.ids for encoding in tokenizer.encode(texts, max_length)]
    columns |= {"label": labels, "value": numbers, "references": references}
    return columns, rows


def encode_images(task: Task, table: pa.Table, size: int | None) -> tuple[Columns, dict[str, Any]]:
    """Decode images to bytes in (channels, height, width) order; all get one size, `size` where they differ."""
    images = [_pixels(value) for value in column(table, task.inputs[0], f"task '{task.name}', inputs")]
    if len({image.shape for image in images}) > 1:
        channels = max(image.shape[0] for image in images)
        images = [_resized(image, channels, size or 224) for image in images]
    shape = images[0].shape
    columns: Columns = {
        "pixels": [image.reshape(-1) for image in images],
        "label": [label_index(task, value) for value in _target(task, table)],
    }
    return columns, {"channels": shape[0], "height": shape[1], "width": shape[2]}


def token_columns(encodings: list[Any], pair: bool) -> Columns:
    """Return `input_ids`, and `token_type_ids` for pairs whose tokenizer marks the second segment."""
    columns: Columns = {"input_ids": [encoding.ids for encoding in encodings]}
    if pair:
        kinds = [encoding.type_ids for encoding in encodings]
        if any(any(kind) for kind in kinds):
            columns["token_type_ids"] = kinds
    return columns


def label_index(task: Task, value: Any) -> int:
    """Return the number of a label given by number or name; raises ConfigError for one that the task does not have."""
    kept = task.only.get(task.target or "", [])
    if value in kept:
        return kept.index(value)
    if isinstance(value, str):
        if value not in task.labels:
            raise ConfigError(f"task '{task.name}': unknown label '{value}'{nearest(value, task.labels)}")
        return task.labels.index(value)
    number = int(value)
    if number < 0 or (task.class_count and number >= task.class_count):
        raise ConfigError(
            f"task '{task.name}': label {number} is not one of the {task.class_count} of `{'labels' if task.labels else 'classes'}` "
            "(-1 marks hidden labels)"
        )
    return number


def _texts(task: Task, table: pa.Table) -> list[Any]:
    values = [column(table, name, f"task '{task.name}', inputs") for name in task.inputs]
    if len(values) == 1:
        return values[0]
    if len(values) == 2:
        return list(zip(*values, strict=True))
    raise ConfigError(f"task '{task.name}': kind {task.kind} takes one text or a pair, not {len(values)} inputs")


def _target(task: Task, table: pa.Table) -> list[Any]:
    if task.target is None:
        raise ConfigError(f"task '{task.name}': kind {task.kind} needs a `target` column")
    return column(table, task.target, f"task '{task.name}', target")


def _text_target(task: Task, value: Any) -> tuple[int, float, list[str]]:
    """Return (class or -1, number or NaN, target texts) of a text-to-text target."""
    if task.labels:
        index = label_index(task, value)
        name = task.labels[index]
        return index, float("nan"), [task.label_words.get(name, name)]
    if isinstance(value, float):
        return -1, value, [f"{np.round(value * 5) / 5:.1f}"]
    answers = list(dict.fromkeys(value)) if isinstance(value, list) else [str(value)]
    return -1, float("nan"), answers or [""]


def _pixels(value: Any) -> np.ndarray:
    """Return uint8 pixels (channels, height, width) of an encoded image or of nested lists of numbers."""
    raw = value.get("bytes") if isinstance(value, dict) else value
    if isinstance(raw, bytes):
        from PIL import Image

        image = Image.open(io.BytesIO(raw))
        array = np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))
    else:
        array = np.asarray(raw, dtype=np.uint8)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def _resized(image: np.ndarray, channels: int, size: int) -> np.ndarray:
    from PIL import Image

    image = np.repeat(image, channels, axis=0) if image.shape[0] == 1 else image
    picture = Image.fromarray(image.transpose(1, 2, 0).squeeze())
    return _pixels(np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR)))
