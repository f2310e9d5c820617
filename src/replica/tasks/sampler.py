"""Batches of like length in an order that depends on the seed and the epoch alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Sampler


class EpochSampler(Sampler[list[int]]):
    """A batch sampler whose order follows from `seed` and `epoch` alone; `followers` (a collator) get every epoch set here."""

    def __init__(self, seed: int, followers: Sequence[Any]):
        self.seed, self.epoch, self.followers = seed, 0, tuple(followers)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose batches are given next, here and in the followers."""
        self.epoch = int(epoch)
        for follower in self.followers:
            follower.set_epoch(self.epoch)


class LengthBucketSampler(EpochSampler):
    """A batch sampler: rows permuted, sorted by length inside megabatches and cut into batches, which are shuffled.

    Parameters
    ----------
    lengths:
        Length of every row.
    batch_size:
        Rows per batch; the last batch of an epoch may be smaller.
    seed:
        With the epoch (`set_epoch`) it decides the order, and nothing else does: skipping the first k batches of an
        epoch gives exactly its remaining ones, which is how a run is resumed.
    megabatch:
        Batches that are sorted together: more means less padding and less mixing of lengths.
    followers:
        Objects whose `set_epoch` is called with every epoch set here (the collator of a masked-language task).
    """

    def __init__(
        self,
        lengths: Sequence[int] | np.ndarray,
        batch_size: int,
        seed: int = 0,
        *,
        megabatch: int = 50,
        followers: Sequence[Any] = (),
    ):
        if batch_size < 1 or megabatch < 1:
            raise ValueError("batch_size and megabatch must be at least 1")
        super().__init__(seed, followers)
        self.lengths = np.asarray(lengths)
        self.batch_size = batch_size
        self.megabatch = megabatch

    def __len__(self) -> int:
        whole, rest = divmod(len(self.lengths), self.batch_size)
        return whole + int(rest > 0)

    def __iter__(self) -> Iterator[list[int]]:
        yield from self.batches()

    def batches(self) -> list[list[int]]:
        """Return the epoch's batches as lists of row indices."""
        generator = np.random.default_rng([self.seed, self.epoch, 0x5A])
        order = generator.permutation(len(self.lengths))
        size = self.batch_size * self.megabatch
        batches = []
        for start in range(0, len(order), size):
            mega = order[start : start + size]
            mega = mega[np.argsort(-self.lengths[mega], kind="stable")]
            batches += [mega[i : i + self.batch_size].tolist() for i in range(0, len(mega), self.batch_size)]
        return [batches[i] for i in generator.permutation(len(batches))]
