"""Several tasks in one run: their rows behind each other, and batches of one task at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from replica.errors import ConfigError
from replica.tasks.collator import Collator
from replica.tasks.prepared import PreparedSplit
from replica.tasks.sampler import EpochSampler, LengthBucketSampler

#: Entry of a batch with the number of its rows' task, `(batch,)`, from 0.
TASK = "task"


class MixedSplit:
    """Prepared splits of several tasks as one map-style data set; a row's `task` is its task's number."""

    def __init__(self, splits: Sequence[PreparedSplit]):
        self.splits = list(splits)
        self.starts = np.cumsum([0, *(len(split) for split in self.splits)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, index: int) -> dict[str, Any]:
        task = int(np.searchsorted(self.starts, index, side="right")) - 1
        return {**self.splits[task][index - int(self.starts[task])], TASK: task}

    @property
    def sizes(self) -> list[int]:
        """Rows of each task."""
        return [len(split) for split in self.splits]


class MixedCollator:
    """Collates rows of one task with that task's collator and adds `task` to the batch."""

    def __init__(self, collators: Sequence[Collator]):
        self.collators = list(collators)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that masks are drawn for, in every task."""
        for collator in self.collators:
            collator.set_epoch(epoch)

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return the batch of these rows; raises ConfigError for rows of more than one task."""
        numbers = {row[TASK] for row in rows}
        if len(numbers) != 1:
            raise ConfigError(f"a batch holds one task, not rows of {sorted(numbers)}")
        [task] = numbers
        return {**self.collators[task](rows), TASK: torch.full((len(rows),), task)}


class MixedSampler(EpochSampler):
    """Every task's batches of like length, all of an epoch shuffled: a task comes in proportion to its rows.

    As VL-T5's multi-task loader does. The order depends on seed and epoch alone, as `LengthBucketSampler`'s does.
    """

    def __init__(self, split: MixedSplit, batch_size: int, seed: int = 0, *, followers: Sequence[Any] = ()):
        self.samplers = [LengthBucketSampler(part.lengths, batch_size, seed) for part in split.splits]
        self.starts = split.starts
        super().__init__(seed, (*self.samplers, *followers))

    def __len__(self) -> int:
        return sum(len(sampler) for sampler in self.samplers)

    def __iter__(self) -> Iterator[list[int]]:
        batches = [
            [int(start) + row for row in batch]
            for start, sampler in zip(self.starts, self.samplers, strict=False)
            for batch in sampler.batches()
        ]
        for place in np.random.default_rng([self.seed, self.epoch, 0x317]).permutation(len(batches)):
            yield batches[place]
