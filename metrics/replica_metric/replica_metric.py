"""Every metric of `replica.tasks.metrics` for the library `evaluate`, by path and name, without a network.

>>> metric = evaluate.load("metrics/replica_metric", "squad_f1")
>>> metric.compute(prediction=["in Paris"], references=[["Paris"]])
{'squad_f1': 66.66666666666667}

The inputs are the columns of the table of predictions that the metric reads (`MetricEntry.columns`), `names` the names of a task's
classes or tags. With `interval` the result also has the ends of the 95 % bootstrap interval over examples, `low` and `high`.
"""

from types import SimpleNamespace

import datasets
import evaluate
import pandas as pd

from replica.tasks.metrics import METRICS
from replica.tasks.scoring import bootstrap


class ReplicaMetric(evaluate.Metric):
    """The metric whose name is the configuration's."""

    def _info(self) -> evaluate.MetricInfo:
        entry = METRICS[self.config_name]
        return evaluate.MetricInfo(
            description=f"{self.config_name} in {entry.unit}, {entry.direction} is better",
            citation="",
            inputs_description=", ".join(f"{name} ({kind})" for name, kind in entry.columns.items()),
            features=datasets.Features({name: _feature(kind) for name, kind in entry.columns.items()}),
        )

    def _compute(self, names=(), interval=False, **columns) -> dict[str, float]:
        task = SimpleNamespace(name=self.config_name, labels=list(names), class_count=len(names))
        table = pd.DataFrame(columns)
        result = {self.config_name: METRICS[self.config_name].compute(table, task)}
        if interval:
            result |= dict(zip(("low", "high"), bootstrap(task, table, self.config_name), strict=True))
        return result


def _feature(kind: str) -> datasets.Value | datasets.List:
    value = datasets.Value(kind.removeprefix("list of "))
    return datasets.List(value) if kind.startswith("list of ") else value
