"""A finished run's numbers: metrics of all its tasks with intervals in one process, and what it costs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from numbers import Number
from pathlib import Path
from typing import Any

from replica import tasks
from replica.assets import manifest
from replica.config.project import Project
from replica.config.task_schema import Task
from replica.errors import ConfigError
from replica.files import atomic_path, finite, remove_leftovers, write_json
from replica.methods.peft.layers import select_task
from replica.methods.stored import load_model
from replica.paths import Layout
from replica.plan.runs import Plan
from replica.tasks import kinds
from replica.training.selection import MEAN

#: Resamples of the bootstrap over examples; the interval's ends then move by well under a tenth of its width.
RESAMPLES = 1000


def evaluate_run(project: Project, plan: Plan, run_id: str, seed: int, layout: Layout) -> dict[str, Any]:
    """Score one seed of a run on the report split of each of its tasks; writes metrics.json and predictions.parquet.

    Every metric comes with a bootstrap interval over examples at the project's confidence level. One that comes out NaN or infinite
    is stored without a value and with the reason, and claims that read it are `not-run` for that reason.
    """
    import pandas as pd

    run = plan.run(run_id)
    folder = layout.run(plan.scale, run_id, seed)
    for name in ("predictions.parquet", "metrics.json"):
        remove_leftovers(folder / name)
    reported = manifest.verify(folder).get("reported", {})
    stated = "".join(f"  [{found['stated']}]" for found in reported.values() if "stated" in found)
    level = project.settings.confidence_level
    found: dict[str, dict[str, Any]] = {}
    frames = []
    for name, prepared in sorted(run.evaluate.items()):
        task = project.task(name)
        split = "report" if task.splits.report else "select"
        head, labels = kinds.of(task).head(task), kinds.of(task).label_count(task)
        model, _ = load_model(folder, head=head, labels=labels, seed=seed)
        model.eval()
        if name in run.tasks:
            select_task(model, run.tasks.index(name))
        predictions, metrics = tasks.evaluate(
            model, task, tasks.PreparedSplit.read(layout.prepared(prepared), split), batch_size=64
        )
        found[name] = {}
        for metric, value in metrics.items():
            low, high = tasks.bootstrap(task, predictions, metric, level, RESAMPLES, seed)
            facts = {"value": finite(value), "low": finite(low), "high": finite(high)}
            if facts["value"] is None:
                facts = dict.fromkeys(facts) | {
                    "reason": f"{run_id} seed {seed}: {metric} on {name} came out as {value}"
                }
            found[name][metric] = {**facts, "n": len(predictions), "split": split}
        frames.append(predictions.assign(task=name))
        shown = "  ".join(f"{metric} {value:.4g}" for metric, value in metrics.items())
        print(f"{run_id} seed {seed} on {name} ({split}): {shown}{stated}", file=sys.stderr, flush=True)
    result = {"run": run_id, "seed": seed, "tasks": found, "reported": reported}
    if frames:
        with atomic_path(folder / "predictions.parquet") as temporary:
            _one_table(pd.concat(frames, ignore_index=True)).to_parquet(temporary, index=False)
    write_json(folder / "metrics.json", result)
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

    Of several tasks, each metric stands under `<task>.<metric>`, and `mean` is the mean of the tasks' primary metrics.
    """
    found = []
    for place, (task, folder) in enumerate(zip(trained, prepared, strict=True)):
        if len(trained) > 1:
            select_task(model, place)
        split = tasks.PreparedSplit.read(folder, "select")
        found.append(tasks.evaluate(model, task, split, batch_size=batch_size)[1])
    if len(trained) == 1:
        return found[0]
    named = {
        f"{task.name}.{key}": value
        for task, scores in zip(trained, found, strict=True)
        for key, value in scores.items()
    }
    primary = [scores[task.primary.name] for task, scores in zip(trained, found, strict=True)]
    return {MEAN: sum(primary) / len(primary), **named}


def measure_run(project: Project, plan: Plan, run_id: str, seed: int, layout: Layout) -> dict[str, Any]:
    """Measure what a finished run costs: parameters, nonzeros, stored bytes, FLOPs, latency; writes measures.json."""
    from replica.meters.timing import latency
    from replica.methods import registry

    run = plan.run(run_id)
    folder = layout.run(plan.scale, run_id, seed)
    for name in ("model.onnx", "measures.json"):
        remove_leftovers(folder / name)
    facts = manifest.verify(folder)
    options = run.measure or {}
    batch, length = options["batch_size"], options["length"]
    model, structure = load_model(folder)
    model.eval()
    found: dict[str, Any] = {
        **facts["counts"],
        "stored_bytes": facts["files"]["model.safetensors"]["bytes"],
        "batch_size": batch,
        "length": length,
    }
    found.update({f"latency_{key}": value for key, value in latency(model, batch, length).items()})
    if options["runtime"] == "onnxruntime":
        for entry, config in map(registry.parse, structure):
            found.update(entry.create(config).export(model, folder / "model.onnx", batch, length))
        if not (folder / "model.onnx").is_file():
            raise ConfigError(f"run {run_id}: no method of the stored model exports it to onnxruntime")
    write_json(folder / "measures.json", {"run": run_id, "seed": seed, "measures": found})
    return found
