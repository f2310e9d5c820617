"""Batches: rows padded to the longest, as the tensors that models take."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from replica.errors import ConfigError
from replica.methods.base import NOT_MODEL_INPUTS
from replica.tasks.encode import IGNORED
from replica.tasks.mlm import mask_tokens, mlm_loss

if TYPE_CHECKING:
    from torch import nn

    from replica.config.task_schema import Task


def collate(task: Task, facts: dict[str, Any], *, seed: int = 0, model: nn.Module | None = None) -> Collator:
    """Return the function that turns rows of a `PreparedSplit` (whose `facts` these are) into a batch.

    With `model` given, entries that its `forward` does not take (DistilBERT's `token_type_ids`) are left out.
    """
    return Collator(task, facts, seed=seed, model=model)


def task_loss(task: Task, model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the task's own training loss (scalar) of a batch.

    Cross-entropy for classification, image, tagging, span (mean of start and end), text2text, causal (each word after the ones before
    it) and completion (the target's words alone), squared error for regression, `mlm_loss` for mlm. Raises ConfigError for
    unlabelled text, which has none.
    """
    if task.kind == "mlm":
        return mlm_loss(model, batch)
    if task.kind == "text":
        raise ConfigError(f"task '{task.name}' is unlabelled text and has no loss; give the run a method that has one")
    return model(**{key: value for key, value in batch.items() if key not in NOT_MODEL_INPUTS}).loss


class Collator:
    """Turns a list of rows into a dict of tensors.

    `example_id` `(batch,)` and, by kind: `input_ids`, `attention_mask`, `token_type_ids` `(batch, length)` with
    length padded to a multiple of 8 (at most the task's); `labels` `(batch,)` for classification, regression and
    image, `(batch, length)` with -100 where nothing is predicted for tagging, mlm, text2text, completion and causal; `start_positions`,
    `end_positions` `(batch,)`; `next_sentence_label` `(batch,)`; `pixel_values` `(batch, channels, height, width)`; for text2text with
    images what `_seen` says.

    Words are masked anew every epoch (`set_epoch`), by a generator that depends on seed, epoch and example_id alone.
    """

    def __init__(self, task: Task, facts: dict[str, Any], *, seed: int = 0, model: nn.Module | None = None):
        if facts["kind"] != task.kind:
            raise ConfigError(f"task '{task.name}' is {task.kind}, but what was prepared is {facts['kind']}")
        self.task = task
        self.facts = facts
        self.seed = seed
        self.epoch = 0
        self._accepted = _arguments(model) if model is not None else None
        if task.kind == "mlm" and facts["tokenizer"]["mask_id"] is None:
            raise ConfigError(f"task '{task.name}': masking needs a tokenizer with a mask token")

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that masks are drawn for."""
        self.epoch = int(epoch)

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return the batch of these rows."""
        batch = {"example_id": torch.tensor([row["example_id"] for row in rows])}
        batch |= self._images(rows) if self.task.kind == "image" else self._tokens(rows)
        if self._accepted is not None:
            batch = {key: value for key, value in batch.items() if key == "example_id" or key in self._accepted}
        return batch

    def _tokens(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        length = self._padded(max(len(row["input_ids"]) for row in rows))
        pad = self.facts["tokenizer"]["pad_id"]
        ids = [row["input_ids"] for row in rows]
        batch: dict[str, torch.Tensor] = {}
        if self.task.kind == "mlm":
            masked = [self._mask(row) for row in rows]
            ids = [inputs for inputs, _ in masked]
            batch["labels"] = padded([labels for _, labels in masked], length, IGNORED)
        batch["input_ids"] = padded(ids, length, pad)
        batch["attention_mask"] = padded([np.ones(len(i), np.int64) for i in ids], length, 0)
        if "token_type_ids" in rows[0]:
            batch["token_type_ids"] = padded([row["token_type_ids"] for row in rows], length, 0)
        if self.task.kind in ("tagging", "completion"):
            batch["labels"] = padded([row["labels"] for row in rows], length, IGNORED)
        elif self.task.kind == "text2text":
            batch["labels"] = padded([row["labels"] for row in rows], None, IGNORED)
            if self.task.images is not None:
                batch |= _seen(rows)
        elif self.task.kind == "causal":  # the model itself compares each word with the output before it
            batch["labels"] = padded(ids, length, IGNORED)
        elif self.task.kind == "span":
            batch["start_positions"] = torch.tensor([row["start"] for row in rows])
            batch["end_positions"] = torch.tensor([row["end"] for row in rows])
        elif self.task.kind == "regression":
            batch["labels"] = torch.tensor([row["label"] for row in rows], dtype=torch.float32)
        elif self.task.kind == "classification":
            batch["labels"] = torch.tensor([row["label"] for row in rows])
        if "next_sentence_label" in rows[0]:
            batch["next_sentence_label"] = torch.tensor([row["next_sentence_label"] for row in rows])
        return batch

    def _images(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        image = self.facts["image"]
        shape = (len(rows), image["channels"], image["height"], image["width"])
        values = torch.from_numpy(np.stack([row["pixels"] for row in rows]).reshape(shape)).float() / 255
        size = image["size"]
        if size and (image["height"], image["width"]) != (size, size):
            values = torch.nn.functional.interpolate(
                values, size=(size, size), mode="bilinear", align_corners=False, antialias=True
            )
        mean, std = (torch.tensor(image[key]).view(1, -1, 1, 1) for key in ("mean", "std"))
        return {"pixel_values": (values - mean) / std, "labels": torch.tensor([row["label"] for row in rows])}

    def _mask(self, row: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        return mask_tokens(
            row["input_ids"],
            self.facts["tokenizer"],
            share=self.task.mask_share,
            seed=self.seed,
            epoch=self.epoch,
            example_id=row["example_id"],
        )

    def _padded(self, longest: int) -> int:
        """Return the next multiple of 8, but not more than the task's length where that holds the longest row."""
        return max(longest, min(-(-longest // 8) * 8, self.facts["max_length"]))


def _seen(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Return the images of rows, filled up to the most that a row has, and `image_mask`, 0 for what was filled up.

    `pixel_values` (batch, images, channels, height, width) from -1 to 1, or `features` (batch, images, regions, width).
    """
    name = "pixels" if "pixels" in rows[0] else "features"
    arrays = [row[name].reshape(row["shape"]) for row in rows]
    most = max(len(array) for array in arrays)
    values = np.zeros((len(rows), most, *arrays[0].shape[1:]), dtype=np.float32)
    mask = torch.zeros(len(rows), most, dtype=torch.long)
    for place, array in enumerate(arrays):
        values[place, : len(array)] = array / 127.5 - 1.0 if name == "pixels" else array
        mask[place, : len(array)] = 1
    return {"pixel_values" if name == "pixels" else "features": torch.from_numpy(values), "image_mask": mask}


def padded(rows: list[np.ndarray], length: int | None, value: int) -> torch.Tensor:
    """Stack rows of integers to `(rows, length)`, filled with `value` on the right; without a length to the longest."""
    length = max(len(row) for row in rows) if length is None else length
    out = np.full((len(rows), length), value, dtype=np.int64)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return torch.from_numpy(out)


def _arguments(model: nn.Module) -> set[str]:
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return set(inspect.signature(inner.forward).parameters)
