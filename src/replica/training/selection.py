"""Which of the tried values a run takes, from its candidates' scores on the select split. Imports torch only to score late."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import Any

from replica.assets import manifest
from replica.config.task_schema import Metric, Task
from replica.errors import TrainingError
from replica.files import atomic_folder, finite, remove_leftovers
from replica.paths import Layout
from replica.plan.runs import Plan, Run

#: Score by which a run over several tasks chooses: the mean of the tasks' primary metrics.
MEAN = "mean"


def choose_candidate(layout: Layout, plan: Plan, run: Run, *trained: Task) -> dict[str, Any]:
    """Pick among a run's candidates by its task's primary metric on the select split; ties go to the first tried.

    A run that trains several tasks chooses by the mean of their primary metrics.

    Returns `chosen` (the values), `winner` (the candidate's id) and `scores` (by tried values; None where the metric was NaN or
    infinite). Raises TrainingError where no candidate has a score.
    """
    metric = trained[0].primary if len(trained) == 1 else Metric(name=MEAN)
    tried = run.spec["tune"]
    scores = {candidate: _score(layout, plan, candidate, trained, metric.name) for candidate in run.candidates}
    labelled = {", ".join(f"{key}={value}" for key, value in tried[c].items()): score for c, score in scores.items()}
    usable = [score for score in scores.values() if score is not None]
    if not usable:
        raise TrainingError(
            f"run {run.id}: {metric.name} of task '{', '.join(task.name for task in trained)}' is NaN or infinite for every value tried "
            f"({'; '.join(labelled)}); try others in `tune`"
        )
    best = (max if metric.direction == "higher" else min)(usable)
    winner = next(candidate for candidate in run.candidates if scores[candidate] == best)
    return {"chosen": tried[winner], "winner": winner, "metric": metric.name, "scores": labelled}


def _score(layout: Layout, plan: Plan, candidate: str, trained: Sequence[Task], metric: str) -> float | None:
    """Return a candidate's score on the select split, as its manifest has it; None where it was NaN or infinite.

    A run that was trained before anybody tried its value for another, or before the task had this metric, is scored here.
    """
    folder = layout.run(plan.scale, candidate, 0)
    scored = manifest.read(folder).get("selection") or {}
    if metric in scored:
        return scored[metric]
    from replica.training.evaluate import score_select

    prepared = [layout.prepared(name) for name in plan.run(candidate).trained_data]
    return finite(score_select(folder, trained, prepared)[metric])


def adopt_winner(layout: Layout, plan: Plan, run: Run, *trained: Task) -> str:
    """Store the winning candidate's result as the run's first seed; returns the winner's id.

    The winner has the same specification with the chosen values and the same seed, hence the same bytes.
    """
    selection = choose_candidate(layout, plan, run, *trained)
    source = layout.run(plan.scale, selection["winner"], 0)
    facts = manifest.verify(source)
    files = facts.pop("files")
    facts.update(run=run.id, spec=run.spec, tuning=selection, adopted_from=facts["run"], candidates=run.candidates)
    out = layout.run(plan.scale, run.id, 0)
    remove_leftovers(out)
    with atomic_folder(out) as folder:
        for name in files:
            shutil.copyfile(source / name, folder / name)
        manifest.write(folder, **facts)
    return selection["winner"]
