"""The rows of a run's own batches, and those that a method may look at in addition."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from replica import tasks
from replica.config.project import Project
from replica.config.schema import Train
from replica.config.task_schema import Task
from replica.errors import ConfigError
from replica.methods.base import Method
from replica.paths import Layout
from replica.plan.runs import Run


def training_data(
    layout: Layout, run: Run, trained: Sequence[Task], train: Train, seed: int, model: Any, methods: Sequence[Method]
) -> tuple[Any, Any, Any]:
    """Return the rows of a run's own batches, all its training rows, and the collator.

    `train_rows` and `rows_per_class` cut each task. Raises ConfigError for a method that keeps rows of several tasks to itself.
    """
    splits = [tasks.PreparedSplit.read(layout.prepared(name), "train") for name in run.trained_data]
    if train.train_rows is not None:
        splits = [split.sample(train.train_rows, seed) for split in splits]
    if train.rows_per_class is not None:
        splits = [split.sample_per_class(train.rows_per_class, seed) for split in splits]
    collators = [
        tasks.collate(task, split.facts, seed=seed, model=model) for task, split in zip(trained, splits, strict=True)
    ]
    several = len(splits) > 1
    split = whole = tasks.MixedSplit(splits) if several else splits[0]
    for method in methods:
        places = method.training_rows(len(whole), seed)
        if places is not None and several:
            raise ConfigError(f"{type(method).__name__} keeps training rows to itself: a run of it trains one task")
        split = split if places is None else whole.subset(places)
    return split, whole, tasks.MixedCollator(collators) if several else collators[0]


def sources(
    project: Project, layout: Layout, run: Run, seed: int, model: Any, whole: tasks.PreparedSplit, collate: Any
) -> dict[str, Any]:
    """Return the data entries of a run's context: `rows`, `rows_at`, `unseen`, `beside` (see `replica.methods.base.Context`).

    `whole` is the training split with all rows, whichever part of it a method leaves to the loop.
    """
    return {
        "rows": len(whole),
        "rows_at": lambda places: collate([whole[place] for place in places]),
        "unseen": lambda count: _first(layout, run, getattr(collate, "collators", [collate])[0], count),
        "beside": _beside(project, layout, run, seed, model),
    }


def _first(layout: Layout, run: Run, collate: Any, count: int) -> dict[str, Any]:
    split = tasks.PreparedSplit.read(layout.prepared(run.data), "select")
    return collate([split[index] for index in range(min(count, len(split)))])


def _beside(
    project: Project, layout: Layout, run: Run, seed: int, model: Any
) -> Callable[[int, int], dict[str, Any]] | None:
    if "beside" not in run.spec:
        return None
    split = tasks.PreparedSplit.read(layout.prepared(run.spec["beside"]["data"]), "train")
    collate = tasks.collate(project.task(run.spec["beside"]["task"][0]), split.facts, seed=seed, model=model)

    def draw(step: int, count: int) -> dict[str, Any]:
        drawn = np.random.default_rng([seed, 0xBE, step]).choice(len(split), min(count, len(split)), replace=False)
        collate.set_epoch(step)  # words are masked anew
        return collate([split[place] for place in drawn.tolist()])

    return draw
