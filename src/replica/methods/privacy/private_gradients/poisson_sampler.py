"""Poisson sampling: every example is in every batch with the same chance, whatever else is in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import Sampler


class PoissonSampler(Sampler[list[int]]):
    """A batch sampler: each of `rows` examples is in a batch with chance batch_size / rows, so that a batch may be empty.

    An epoch has as many batches as if they were of `batch_size`. Only seed and epoch decide the draws.
    """

    def __init__(self, rows: int, batch_size: int, seed: int = 0, followers: list[Any] | None = None):
        self.rows, self.batch_size, self.seed = rows, batch_size, seed
        self.followers, self.epoch = tuple(followers or ()), 0

    @property
    def rate(self) -> float:
        """Chance of an example to be in a batch."""
        return min(1.0, self.batch_size / self.rows)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose batches are given next, here and in the followers."""
        self.epoch = int(epoch)
        for follower in self.followers:
            follower.set_epoch(self.epoch)

    def __len__(self) -> int:
        return -(-self.rows // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        generator = np.random.default_rng([self.seed, self.epoch, 0xD9])
        for _ in range(len(self)):
            yield np.flatnonzero(generator.random(self.rows) < self.rate).tolist()
