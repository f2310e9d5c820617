"""Poisson sampling: every example is in every batch with the same chance, whatever else is in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from replica.tasks.sampler import EpochSampler


class PoissonSampler(EpochSampler):
    """A batch sampler: each of `rows` examples is in a batch with chance batch_size / rows, so that a batch may be empty.

    An epoch has as many batches as if they were of `batch_size`. Only seed and epoch decide the draws.
    """

    def __init__(self, rows: int, batch_size: int, seed: int = 0, followers: list[Any] | None = None):
        super().__init__(seed, followers or ())
        self.rows, self.batch_size = rows, batch_size

    @property
    def rate(self) -> float:
        """Chance of an example to be in a batch."""
        return min(1.0, self.batch_size / self.rows)

    def __len__(self) -> int:
        return -(-self.rows // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        generator = np.random.default_rng([self.seed, self.epoch, 0xD9])
        for _ in range(len(self)):
            yield np.flatnonzero(generator.random(self.rows) < self.rate).tolist()
