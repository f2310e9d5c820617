"""One batch, computed in parts: by several processes, and in smaller pieces where memory is short.

The sampler's batches are those of one process that has memory enough. Each is shared by the processes, and a process's share is cut
into `parts`; the loss of each part is weighted by its count in its batch. So neither the number of processes nor that of
parts changes the batch of a step, and the gradient is that of the whole batch, where the loss is a mean over sentences or over labelled
tokens. (A loss that adds means over different things, or compares sentences of one batch, is that of the parts.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler

from replica.errors import TrainingError

#: The label of a token that does not count.
IGNORED = -100
#: Count of a part that got no sentence.
EMPTY = -1


def whole(batch_size: int, accumulate: int, processes: int) -> int:
    """Return the sentences of a whole micro-batch, before it is shared; TrainingError where a process would get none."""
    size = batch_size // accumulate  # without a rest: the configuration is checked for it
    if size < processes:
        raise TrainingError(
            f"batch_size {batch_size} with accumulate {accumulate} makes micro-batches of {size}, too few for {processes} processes: "
            "take fewer GPUs or a smaller accumulate"
        )
    return size


def most_parts(batch_size: int, accumulate: int, processes: int) -> int:
    """Return the number of parts at which a process computes one sentence at a time."""
    return max(1, -(-batch_size // (accumulate * processes)))


class PartSampler(Sampler[list[int]]):
    """Gives this process's parts of another sampler's batches: `parts` lists of rows for each of its batches, some perhaps empty."""

    def __init__(self, batch_sampler: Any, parts: int = 1, rank: int = 0, processes: int = 1):
        self.batch_sampler, self.parts, self.rank, self.processes = batch_sampler, parts, rank, processes

    def __len__(self) -> int:
        return len(self.batch_sampler) * self.parts

    def __iter__(self) -> Iterator[list[int]]:
        for rows in self.batch_sampler:
            own = np.asarray(rows)[
                self.rank :: self.processes
            ]  # rows are sorted by length: every process gets long and short ones
            for part in np.array_split(own, self.parts):
                yield part.tolist()


def counted(batch: dict[str, torch.Tensor]) -> int:
    """Return the number of items that a batch's mean loss averages: labelled tokens where labels are by token, else sentences."""
    labels = batch.get("labels")
    if labels is not None and labels.dim() > 1 and not labels.is_floating_point():
        return int((labels != IGNORED).sum())
    return len(next(iter(batch.values())))


def weights(counts: Sequence[int], totals: torch.Tensor, parts: int, processes: int) -> list[float]:
    """Return each part's weight in a mean over parts, from its count and the counts of whole batches.

    A part that is EMPTY has weight 0. A batch with count 0 (no word of it was masked) weighs its parts alike.
    """
    shares = parts * processes
    part_weights = []
    for place, count in enumerate(counts):
        batch = float(totals[place // parts])
        alike = 0.0 if count == EMPTY else 1.0
        part_weights.append(max(count, 0) * shares / batch if batch else alike)
    return part_weights
