"""Which of the tried values a run takes, from its candidates' scores on the select split. Imports torch only to score late."""

from __future__ import annotations

import shutil
from typing import Any

from replica.assets import manifest
from replica.config.task_schema import Metric
from replica.errors import TrainingError
from replica.files import atomic_folder, finite, remove_leftovers
from replica.plan.run_job import RunJob
from replica.seals import SEAL

#: Score by which a run over several tasks chooses: the mean of the tasks' primary metrics.
MEAN = "mean"


def choose_candidate(job: RunJob) -> dict[str, Any]:
    """Pick among a run's candidates by its task's primary metric on the select split; ties go to the first tried.

    A run that trains several tasks chooses by the mean of their primary metrics.

    Returns `chosen` (the values), `winner` (the candidate's id) and `scores` (by tried values; None where the metric was NaN or
    infinite). Raises TrainingError where no candidate has a score.
    """
    run, trained = job.run, job.trained_tasks
    metric = trained[0].primary if len(trained) == 1 else Metric(name=MEAN)
    values = run.spec.tune
    scores = {candidate: _score(job, candidate, metric.name) for candidate in run.candidates}
    labelled = {", ".join(f"{key}={value}" for key, value in values[c].items()): score for c, score in scores.items()}
    usable = [score for score in scores.values() if score is not None]
    if not usable:
        raise TrainingError(
            f"run {run.id}: {metric.name} of task '{', '.join(run.tasks)}' is NaN or infinite for every value tried "
            f"({'; '.join(labelled)}); try others in `tune`"
        )
    best = (max if metric.direction == "higher" else min)(usable)
    winner = next(candidate for candidate in run.candidates if scores[candidate] == best)
    return {"chosen": values[winner], "winner": winner, "metric": metric.name, "scores": labelled}


def _score(job: RunJob, candidate: str, metric: str) -> float | None:
    """Return a candidate's score on the select split, from its manifest; None where it was NaN or infinite.

    A run that was trained before it became a candidate, or before the task had this metric, is scored here.
    """
    folder = job.candidate_folder(candidate)
    scores = manifest.read(folder).get("selection") or {}
    if metric in scores:
        return scores[metric]
    from replica.training.evaluate import score_select

    data = [job.layout.prepared(name) for name in job.relatives[candidate].trained_data]
    return finite(score_select(folder, job.trained_tasks, data)[metric])


def adopt_winner(job: RunJob) -> str:
    """Store the winning candidate's result as the run's first seed; returns the winner's id.

    The winner has the same specification with the chosen values and the same seed, hence the same bytes.
    """
    run, selection = job.run, choose_candidate(job)
    source = job.candidate_folder(selection["winner"])
    facts = manifest.verify(source, run=selection["winner"], seed=0)
    files, seal, winner = facts.pop("files"), facts.pop(SEAL), facts["run"]
    facts.update(run=run.id, spec=run.spec.content(), tuning=selection, adopted_from=winner, candidates=run.candidates)
    remove_leftovers(job.folder)
    with atomic_folder(job.folder) as folder:
        for name in files:
            shutil.copyfile(source / name, folder / name)
        manifest.write(folder, {key: value for key, value in seal.items() if key != "sha256"}, **facts)
    return selection["winner"]
