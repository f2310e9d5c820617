"""Rows of sentence, pair, tagging, text-to-text, completion and image tasks as columns of numbers."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from replica.errors import ConfigError, nearest
from replica.tasks.splits import column

if TYPE_CHECKING:
    from replica.config.task_schema import Task
    from replica.tasks.tokenizer import TextTokenizer

Columns = dict[str, list[Any]]

#: Label of a place where nothing is predicted.
IGNORED = -100


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
            labels.append(IGNORED if word is None or word == previous else numbers[word])
            previous = word
        columns["labels"].append(labels)
    return columns


def encode_text2text(
    task: Task, table: pa.Table, tokenizer: TextTokenizer, max_length: int, train: bool
) -> tuple[Columns, list[int]]:
    """Encode input and target texts as T5 writes them, or joined for a decoder; return the columns and the table's row of each.

    The input is `prefix` and then `column: value` for every input column; one column stands bare without a prefix, or after one that
    ends with a colon. A list is shown with commas, a list of lists as `a : b : c | d : e : f`. The target is the label's word,
    a number rounded to 0.2 (STS-B; Raffel et al. 2020, section 2.4), or the text itself; of a list of answers each makes a training row,
    and all are references elsewhere, with `merge` those of all rows with the same input.

    For a `completion` the input's pieces, an end of text, the target's (which follows a space) and another end of text are one row;
    `labels` repeats the last two parts and is -100 over the first. Input and target are each cut to `max_length`.
    """
    sources = _sources(task, table)
    found: dict[Any, tuple[int, int, float, list[str]]] = {}
    for index, value in enumerate(_target(task, table)):
        label, number, answers = _text_target(task, value)
        merged = found.setdefault(sources[index] if task.merge and not train else index, (index, label, number, []))
        merged[3].extend(answers)
    rows, texts, labels, numbers, references = [], [], [], [], []
    for index, label, number, answers in found.values():
        for answer in dict.fromkeys(answers) if train else answers[:1]:
            rows.append(index)
            texts.append(answer)
            labels.append(label)
            numbers.append(number)
            references.append(answers)
    if task.kind == "completion":
        columns = _joined(task, tokenizer, [sources[row] for row in rows], texts, max_length)
    else:
        encoded = token_columns(tokenizer.encode(sources, max_length), False)
        columns = {name: [cells[row] for row in rows] for name, cells in encoded.items()}
        columns["labels"] = [encoding.ids for encoding in tokenizer.encode(texts, max_length)]
    if task.images is not None:
        columns |= {name: [cells[row] for row in rows] for name, cells in _seen(task, table).items()}
    columns |= {"label": labels, "value": numbers, "references": references}
    return columns, rows


def _sources(task: Task, table: pa.Table) -> list[str]:
    """Return the input text of each row."""
    prefix = task.prefix.strip()
    values = [column(table, name, f"task '{task.name}', inputs") for name in task.inputs]
    bare = len(task.inputs) == 1 and (prefix.endswith(":") or not prefix)
    sources = []
    for row in zip(*values, strict=True) if values else [()] * table.num_rows:
        shown = [_shown(value) for value in row]
        parts = shown if bare else [f"{name}: {text}" for name, text in zip(task.inputs, shown, strict=True)]
        sources.append(" ".join([prefix, *parts]).strip())
    return sources


def _shown(value: Any) -> str:
    if not isinstance(value, list):
        return str(value)
    if any(isinstance(part, list) for part in value):
        return " | ".join(" : ".join(map(str, part)) for part in value)
    return ", ".join(map(str, value))


def _joined(task: Task, tokenizer: TextTokenizer, sources: list[str], texts: list[str], max_length: int) -> Columns:
    """Return `input_ids` and `labels` of inputs with their targets; raises ConfigError for a tokenizer without an end of text."""
    end = tokenizer.facts["eos_id"]
    if end is None:
        raise ConfigError(f"task '{task.name}': kind completion needs a tokenizer with a piece that ends a text")
    given = [encoding.ids for encoding in tokenizer.encode(sources, max_length, special=False)]
    wanted = [e.ids for e in tokenizer.encode([f" {text}" for text in texts], max_length, special=False)]
    return {
        "input_ids": [[*before, end, *after, end] for before, after in zip(given, wanted, strict=True)],
        "labels": [[*[IGNORED] * (len(before) + 1), *after, end] for before, after in zip(given, wanted, strict=True)],
    }


def _seen(task: Task, table: pa.Table) -> Columns:
    """Return the images of each row: `pixels` and their `shape` (images, channels, height, width), or `features` and theirs
    (images, regions, width)."""
    rows = column(table, task.images, f"task '{task.name}', images")
    kind = table.schema.field(task.images).type
    while pa.types.is_list(kind):
        kind = kind.value_type
    if pa.types.is_floating(kind):
        arrays = [np.asarray(row, dtype=np.float16) for row in rows]
        name = "features"
    else:
        arrays = [np.stack([_pixels(value) for value in row]) for row in rows]
        name = "pixels"
    return {name: [array.reshape(-1) for array in arrays], "shape": [list(array.shape) for array in arrays]}


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
    answers = [str(answer) for answer in value] if isinstance(value, list) else [str(value)]
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
