"""A number for a text or a pair of texts."""

from __future__ import annotations

import math

from replica.tasks.columns import require
from replica.tasks.kinds.classification import Classification
from replica.tasks.kinds.kind import model_inputs


class Regression(Classification):
    """Predicts a number from one text or two."""

    name = "regression"

    def label_count(self, task) -> int:
        """Return 1: the head has one output."""
        return 1

    def label(self, task, value, row) -> float:
        """Return the target of a row; RowError for one that is no finite number."""
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        require(number and math.isfinite(value), task, task.target, value, "a finite number", row)
        return float(value)

    def targets(self, task, rows, facts):
        """Return `labels` `(batch,)` in float32."""
        import torch

        return {"labels": torch.tensor([row["label"] for row in rows], dtype=torch.float32)}

    def predict(self, model, task, batch, rows, split):
        """Give `label` and `prediction`."""
        values = model(**model_inputs(batch)).logits.float().cpu().numpy()[:, 0]
        return [{"label": row["label"], "prediction": float(value)} for row, value in zip(rows, values, strict=True)]
