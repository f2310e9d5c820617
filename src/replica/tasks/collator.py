"""Batches: rows padded to the longest, as the tensors that models take."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from replica.errors import ConfigError
from replica.tasks import kinds

if TYPE_CHECKING:
    from torch import nn

    from replica.config.task_schema import Task


def collate(task: Task, facts: dict[str, Any], *, seed: int = 0, model: nn.Module | None = None) -> Collator:
    """Return the function that turns rows of a `PreparedSplit` (whose `facts` these are) into a batch.

    Entries that the `forward` of `model` does not take (DistilBERT's `token_type_ids`) are left out.
    """
    return Collator(task, facts, seed=seed, model=model)


def task_loss(task: Task, model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the task's own training loss (scalar) of a batch.

    Cross-entropy for classification, image, tagging, span (mean of start and end), text2text, causal (each word after the ones before
    it) and completion (the target's words alone), squared error for regression, `mlm_loss` for mlm. Raises ConfigError for
    unlabelled text, which has none.
    """
    return kinds.of(task).loss(task, model, batch)


class Collator:
    """Turns a list of rows into a dict of tensors: `example_id` `(batch,)`, and those of the task's kind.

    Tokens are `input_ids`, `attention_mask` and of pairs `token_type_ids`, `(batch, length)` with length padded to a multiple of 8 (at
    most the task's). Words are masked anew every epoch (`set_epoch`), by a generator that depends on seed, epoch and example_id alone.
    """

    def __init__(self, task: Task, facts: dict[str, Any], *, seed: int = 0, model: nn.Module | None = None):
        if facts["kind"] != task.kind:
            raise ConfigError(f"task '{task.name}' is {task.kind}, but its prepared data are {facts['kind']}")
        kinds.of(task).check_facts(task, facts)
        self.task = task
        self.facts = facts
        self.seed = seed
        self.epoch = 0
        self._accepted = _arguments(model) if model is not None else None

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that masks are drawn for."""
        self.epoch = int(epoch)

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return the batch of these rows."""
        batch = kinds.of(self.task).batch(self.task, self.facts, rows, self.seed, self.epoch)
        if self._accepted is not None:
            batch = {key: value for key, value in batch.items() if key in self._accepted}
        return {"example_id": torch.tensor([row["example_id"] for row in rows]), **batch}


def token_batch(rows: list[dict[str, Any]], facts: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Return `input_ids`, `attention_mask` and, where rows have them, `token_type_ids`, each `(batch, length)`, and
    `next_sentence_label` `(batch,)`."""
    length = padded_length(rows, facts)
    ids = [row["input_ids"] for row in rows]
    batch = {
        "input_ids": padded(ids, length, facts["tokenizer"]["pad_id"]),
        "attention_mask": padded([np.ones(len(row), np.int64) for row in ids], length, 0),
    }
    if "token_type_ids" in rows[0]:
        batch["token_type_ids"] = padded([row["token_type_ids"] for row in rows], length, 0)
    if "next_sentence_label" in rows[0]:
        batch["next_sentence_label"] = torch.tensor([row["next_sentence_label"] for row in rows])
    return batch


def padded_length(rows: list[dict[str, Any]], facts: dict[str, Any]) -> int:
    """Return the length of the longest row as the next multiple of 8, but not more than the task's where that holds the row."""
    longest = max(len(row["input_ids"]) for row in rows)
    return max(longest, min(-(-longest // 8) * 8, facts["max_length"]))


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
