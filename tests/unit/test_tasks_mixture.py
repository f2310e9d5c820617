"""Several tasks in one run: batches of one task each, in proportion to the tasks' rows, in an order that resumes."""

from collections import Counter

import numpy as np
import pytest
import torch

from replica.config.schema import Train
from replica.errors import ConfigError
from replica.tasks import MixedCollator, MixedSampler, MixedSplit, PreparedSplit
from replica.training.loop import total_steps

SIZES = [50, 20, 7]


def mixed(sizes=SIZES):
    parts = []
    for task, size in enumerate(sizes):
        lengths = np.random.default_rng(task).integers(3, 9, size)
        parts.append(PreparedSplit({"example_id": np.arange(size), "length": lengths, "of": np.full(size, task)}, {}))
    return MixedSplit(parts)


class Plain:
    """Stands in for a task's collator."""

    def __init__(self, number):
        self.number, self.epochs = number, []

    def set_epoch(self, epoch):
        self.epochs.append(epoch)

    def __call__(self, rows):
        return {"of": torch.tensor([row["of"] for row in rows]), "by": torch.full((len(rows),), self.number)}


def test_every_row_comes_once_an_epoch_and_every_batch_has_one_task():
    split = mixed()
    sampler = MixedSampler(split, 8, seed=3)
    batches = list(sampler)
    assert sorted(row for batch in batches for row in batch) == list(range(sum(SIZES)))
    tasks = [{split[row]["task"] for row in batch} for batch in batches]
    assert all(len(found) == 1 for found in tasks)
    # Batches of a task: its rows / 8, rounded up.
    assert Counter(task for found in tasks for task in found) == {0: 7, 1: 3, 2: 1}
    assert len(sampler) == 11 == total_steps(Train(epochs=1, batch_size=8), split.sizes)
    assert [row["of"] for row in (split[0], split[49], split[50], split[69], split[70])] == [0, 0, 1, 1, 2]


def test_the_order_follows_from_seed_and_epoch_alone():
    first, again = MixedSampler(mixed(), 8, seed=3), MixedSampler(mixed(), 8, seed=3)
    list(first)
    first.set_epoch(4)
    again.set_epoch(4)
    assert list(first) == list(again)
    again.set_epoch(5)
    assert list(first) != list(again)
    assert list(MixedSampler(mixed(), 8, seed=4)) != list(MixedSampler(mixed(), 8, seed=3))


def test_a_batch_is_made_by_its_tasks_own_collator_and_says_which_it_is():
    split, parts = mixed(), [Plain(0), Plain(1), Plain(2)]
    collate = MixedCollator(parts)
    sampler = MixedSampler(split, 8, followers=[collate])
    sampler.set_epoch(2)
    assert [part.epochs for part in parts] == [[2]] * 3
    for rows in sampler:
        batch = collate([split[row] for row in rows])
        assert torch.equal(batch["task"], batch["of"]) and torch.equal(batch["by"], batch["of"])
    with pytest.raises(ConfigError, match="one task"):
        collate([split[0], split[60]])
