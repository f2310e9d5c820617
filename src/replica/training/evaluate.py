"""A finished run's numbers: metrics of all its tasks with intervals in one process, and its cost."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from numbers import Number
from pathlib import Path
from typing import Any

from replica import tasks
from replica.assets import manifest
from replica.config.task_schema import Task
from replica.errors import ConfigError
from replica.files import atomic_path, check_dates, finite, remove_leftovers, sha256_file
from replica.methods.peft.layers import select_task
from replica.methods.stored import load_model
from replica.paths import MANIFEST, MEASURES, METRICS, PREDICTIONS
from replica.plan.run_job import RunJob
from replica.seals import code_facts, write_sealed
from replica.tasks import kinds
from replica.training.selection import MEAN

#: Resamples of the bootstrap over examples; the interval's ends then move by well under a tenth of its width.
RESAMPLES = 1000


def evaluate_run(job: RunJob) -> dict[str, Any]:
    """Score one seed of a run on the report split of each of its tasks; writes metrics.json and predictions.parquet.

    Every metric comes with a bootstrap interval over examples at the project's confidence level. One that comes out NaN or infinite
    is stored without a value and with the reason, and claims that read it are `not-run` for that reason.
    """
    import pandas as pd

    run, seed, folder = job.run, job.seed, job.folder
    for name in (PREDICTIONS, METRICS):
        remove_leftovers(folder / name)
    check_dates([folder / MANIFEST, *(job.layout.prepared(name) / MANIFEST for name in run.evaluate.values())])
    reported = manifest.verify(folder, run=run.id, seed=seed).get("reported", {})
    stated = "".join(f"  [{values['stated']}]" for values in reported.values() if "stated" in values)
    scores: dict[str, dict[str, Any]] = {}
    frames, read = [], {}
    for name, prepared in sorted(run.evaluate.items()):
        task = job.tasks[name]
        split = "report" if task.splits.report else "select"
        head, labels = kinds.of(task).head(task), kinds.of(task).label_count(task)
        model, _ = load_model(folder, head=head, labels=labels, seed=seed)
        model.eval()
        if name in run.tasks:
            select_task(model, run.tasks.index(name))
        rows = tasks.PreparedSplit.read(job.layout.prepared(prepared), split)
        read[f"prepared/{prepared}"] = manifest.digest(job.layout.prepared(prepared))
        predictions, metrics = tasks.evaluate(model, task, rows, batch_size=64)
        scores[name] = {}
        for metric, value in metrics.items():
            low, high = tasks.bootstrap(task, predictions, metric, job.confidence_level, RESAMPLES, seed)
            facts = {"value": finite(value), "low": finite(low), "high": finite(high)}
            if facts["value"] is None:
                facts = dict.fromkeys(facts) | {
                    "reason": f"{run.id} seed {seed}: {metric} on {name} came out as {value}"
                }
            scores[name][metric] = {**facts, "n": len(predictions), "split": split}
        frames.append(predictions.assign(task=name))
        shown = "  ".join(f"{metric} {value:.4g}" for metric, value in metrics.items())
        print(f"{run.id} seed {seed} on {name} ({split}): {shown}{stated}", file=sys.stderr, flush=True)
    result = {"run": run.id, "seed": seed, "tasks": scores, "reported": reported}
    if frames:
        with atomic_path(folder / PREDICTIONS) as temporary:
            _one_table(pd.concat(frames, ignore_index=True)).to_parquet(temporary, index=False)
    scored = {name: sha256_file(folder / name) for name in (MANIFEST, *([PREDICTIONS] if frames else []))}
    settings = {"confidence_level": job.confidence_level, "resamples": RESAMPLES}
    write_sealed(folder / METRICS, result, inputs={**read, **scored}, settings=settings, code=code_facts())
    return result


def _one_table(predictions: Any) -> Any:
    """Return the predictions of several tasks with texts in a column that held texts for one task and numbers for another."""
    for name in predictions.select_dtypes("object").columns:
        if predictions[name].map(type).isin([str]).any():
            numbers = predictions[name].map(lambda value: isinstance(value, Number) and value == value)
            predictions.loc[numbers, name] = predictions.loc[numbers, name].astype(str)
    return predictions


def score_select(folder: Path, trained: Sequence[Task], prepared: Sequence[Path]) -> dict[str, float]:
    """Return the scores of a stored model on the select splits of the tasks that it was trained on, as `select_scores` does."""
    manifest.verify(folder)
    head, labels = kinds.of(trained[0]).head(trained[0]), kinds.of(trained[0]).label_count(trained[0])
    model, _ = load_model(folder, head=head, labels=labels)
    return select_scores(model, trained, prepared)


def select_scores(
    model: Any, trained: Sequence[Task], prepared: Sequence[Path], batch_size: int = 64
) -> dict[str, float]:
    """Return the metrics of a model on the select split of its task.

    Of several tasks, each metric is named `<task>.<metric>`, and `mean` is the mean of the tasks' primary metrics.
    """
    scores = []
    for place, (task, folder) in enumerate(zip(trained, prepared, strict=True)):
        if len(trained) > 1:
            select_task(model, place)
        split = tasks.PreparedSplit.read(folder, "select")
        scores.append(tasks.evaluate(model, task, split, batch_size=batch_size)[1])
    if len(trained) == 1:
        return scores[0]
    named = {
        f"{task.name}.{key}": value
        for task, values in zip(trained, scores, strict=True)
        for key, value in values.items()
    }
    primary = [values[task.primary.name] for task, values in zip(trained, scores, strict=True)]
    return {MEAN: sum(primary) / len(primary), **named}


def measure_run(job: RunJob) -> dict[str, Any]:
    """Measure the cost of a finished run: parameters, nonzeros, stored bytes, FLOPs, latency; writes measures.json."""
    from replica.meters.timing import latency
    from replica.methods import registry

    folder = job.folder
    for name in ("model.onnx", MEASURES):
        remove_leftovers(folder / name)
    facts = manifest.verify(folder, run=job.run.id, seed=job.seed)
    options = job.run.measure or {}
    batch, length = options["batch_size"], options["length"]
    model, structure = load_model(folder)
    model.eval()
    measures: dict[str, Any] = {
        **facts["counts"],
        "stored_bytes": facts["files"]["model.safetensors"]["bytes"],
        "batch_size": batch,
        "length": length,
    }
    measures.update({f"latency_{key}": value for key, value in latency(model, batch, length).items()})
    if options["runtime"] == "onnxruntime":
        for entry, config in map(registry.parse, structure):
            measures.update(entry.create(config).export(model, folder / "model.onnx", batch, length))
        if not (folder / "model.onnx").is_file():
            raise ConfigError(f"run {job.run.id}: no method of the stored model exports it to onnxruntime")
    result = {"run": job.run.id, "seed": job.seed, "measures": measures}
    read = {MANIFEST: sha256_file(folder / MANIFEST)}
    write_sealed(folder / MEASURES, result, inputs=read, settings=options, code=code_facts())
    return measures
