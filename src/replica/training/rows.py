"""Rows that a method may look at besides the run's own batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from replica import tasks
from replica.config.project import Project
from replica.paths import Layout
from replica.plan.runs import Run


def sources(
    project: Project, layout: Layout, run: Run, seed: int, model: Any, whole: tasks.PreparedSplit, collate: Any
) -> dict[str, Any]:
    """Return what a run's context says of its data: `rows`, `rows_at`, `unseen`, `beside` (see `replica.methods.base.Context`).

    `whole` is the training split with all rows, whatever half of it a method leaves to the loop.
    """
    return {
        "rows": len(whole),
        "rows_at": lambda places: collate([whole[place] for place in places]),
        "unseen": lambda count: _first(layout, run, collate, count),
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
