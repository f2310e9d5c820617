"""The rows of a run's own batches, and those that a method may look at in addition."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from replica import tasks
from replica.config.schema import Train
from replica.errors import ConfigError
from replica.methods.base import Method
from replica.plan.run_job import RunJob


def training_data(job: RunJob, train: Train, model: Any, methods: Sequence[Method]) -> tuple[Any, Any, Any]:
    """Return the rows of a run's own batches, all its training rows, and the collator.

    `train_rows` and `rows_per_class` cut each task. Raises ConfigError for a method that keeps rows of several tasks to itself.
    """
    splits = [tasks.PreparedSplit.read(folder, "train") for folder in job.trained_folders]
    if train.train_rows is not None:
        splits = [split.sample(train.train_rows, job.seed) for split in splits]
    if train.rows_per_class is not None:
        splits = [split.sample_per_class(train.rows_per_class, job.seed) for split in splits]
    collators = [
        tasks.collate(task, split.facts, seed=job.seed, model=model)
        for task, split in zip(job.trained_tasks, splits, strict=True)
    ]
    several = len(splits) > 1
    split = whole = tasks.MixedSplit(splits) if several else splits[0]
    for method in methods:
        places = method.training_rows(len(whole), job.seed)
        if places is not None and several:
            raise ConfigError(f"{type(method).__name__} keeps training rows to itself: a run of it trains one task")
        split = split if places is None else whole.subset(places)
    return split, whole, tasks.MixedCollator(collators) if several else collators[0]


def sources(job: RunJob, model: Any, whole: tasks.PreparedSplit, collate: Any) -> dict[str, Any]:
    """Return the data entries of a run's context: `rows`, `rows_at`, `unseen`, `beside` (see `replica.methods.base.Context`).

    `whole` is the training split with all rows, whichever part of it a method leaves to the loop.
    """
    return {
        "rows": len(whole),
        "rows_at": lambda places: collate([whole[place] for place in places]),
        "unseen": lambda count: _first(job, getattr(collate, "collators", [collate])[0], count),
        "beside": _beside(job, model),
    }


def _first(job: RunJob, collate: Any, count: int) -> dict[str, Any]:
    split = tasks.PreparedSplit.read(job.layout.prepared(job.run.data), "select")
    return collate([split[index] for index in range(min(count, len(split)))])


def _beside(job: RunJob, model: Any) -> Callable[[int, int], dict[str, Any]] | None:
    other, seed = job.run.spec.beside, job.seed
    if other is None:
        return None
    split = tasks.PreparedSplit.read(job.layout.prepared(other.data), "train")
    collate = tasks.collate(job.tasks[other.name], split.facts, seed=seed, model=model)

    def draw(step: int, count: int) -> dict[str, Any]:
        drawn = np.random.default_rng([seed, 0xBE, step]).choice(len(split), min(count, len(split)), replace=False)
        collate.set_epoch(step)  # words are masked anew
        return collate([split[place] for place in drawn.tolist()])

    return draw
