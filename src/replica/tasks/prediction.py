"""A model's predictions on a prepared split, and their scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from replica.tasks import kinds
from replica.tasks.collator import collate
from replica.tasks.scoring import score

if TYPE_CHECKING:
    from torch import nn

    from replica.config.task_schema import Task
    from replica.tasks.prepared import PreparedSplit


@torch.no_grad()
def evaluate(
    model: nn.Module, task: Task, split: PreparedSplit, batch_size: int = 64
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Predict a split with a model, in eval mode and on its device, and score the predictions.

    The table has one row per example in the split's order (per question for span), with `example_id`, `row` of the data set and the
    columns of the kind's `predict` and `assemble`. Masked words are those of seed 0 and epoch 0, the same for every model.
    """
    kind = kinds.of(task)
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    collator = collate(task, split.facts, model=None if kind.whole_batches else model)
    order = np.argsort(-split.lengths, kind="stable")
    records: list[dict[str, Any]] = []
    try:
        for start in range(0, len(order), batch_size):
            rows = [split[int(i)] for i in order[start : start + batch_size]]
            batch = {key: value.to(device) for key, value in collator(rows).items()}
            for row, values in zip(rows, kind.predict(model, task, batch, rows, split), strict=True):
                records.append({"example_id": row["example_id"], "row": row["row"], **values})
    finally:
        model.train(was_training)
    predictions = pd.DataFrame(records).sort_values("example_id", kind="stable").reset_index(drop=True)
    predictions = kind.assemble(task, split, predictions)
    return predictions, score(task, predictions)
