"""From stored predictions to numbers: a task's metrics, and their bootstrap intervals over examples."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from replica.errors import ConfigError, nearest
from replica.tasks import kinds
from replica.tasks.metrics import METRICS, MetricEntry

if TYPE_CHECKING:
    import pandas as pd

    from replica.config.task_schema import Task

#: Cells of a resampling product held in memory at a time.
_CELLS = 20_000_000


def score(task: Task, predictions: pd.DataFrame) -> dict[str, float]:
    """Return the task's metrics of a table of predictions (`replica.tasks.metrics` has the units).

    The result is empty for unlabelled text.
    """
    if not kinds.of(task).scored:
        return {}
    if not len(predictions):
        raise ConfigError(f"task '{task.name}': there are no predictions to score")
    return {metric.name: _entry(task, metric.name).compute(predictions, task) for metric in task.metrics}


def bootstrap(
    task: Task,
    predictions: pd.DataFrame,
    metric: str,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of a metric over examples (Efron and Tibshirani 1993, section 13.3).

    Examples are drawn with replacement; the same seed gives the same draws, so that two models' intervals on one
    split are over the same samples.
    """
    entry = _entry(task, metric)
    count = len(predictions)
    if count < 2:
        value = entry.compute(predictions, task)
        return value, value
    generator = np.random.default_rng(seed)
    statistics = entry.statistics(predictions, task) if entry.of_sample is None else None
    values = []
    chunk = max(1, _CELLS // count)
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        if statistics is None:
            values.append(entry.of_sample(predictions, generator.integers(0, count, size=(size, count))))
        else:
            weights = generator.multinomial(count, np.full(count, 1 / count), size=size)
            values.append(entry.value(weights @ statistics))
    low, high = np.quantile(np.concatenate(values), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _entry(task: Task, name: str) -> MetricEntry:
    if name not in METRICS:
        raise ConfigError(f"task '{task.name}': unknown metric '{name}'{nearest(name, METRICS)}")
    return METRICS[name]
