"""Tasks as data: prepared splits, batches, evaluation and metrics for every kind of task.

`prepare` writes a folder once; `PreparedSplit` reads it; `DataLoader(split,
batch_sampler=LengthBucketSampler(split.lengths, …), collate_fn=collate(task, split.facts))` trains on it; `evaluate`,
`score` and `bootstrap` give numbers (`replica.tasks.metrics` has their units). `replica.tasks.mlm` has masking and
the head at masked words.
"""

from __future__ import annotations

import importlib
from typing import Any

from replica.tasks.metrics import METRICS
from replica.tasks.prepare import label_count, prepare
from replica.tasks.prepared import PreparedSplit

#: What needs torch, imported when it is first asked for: data are prepared without it.
_WITH_TORCH = {
    "Collator": "replica.tasks.batches",
    "LengthBucketSampler": "replica.tasks.sampler",
    "MixedCollator": "replica.tasks.mixture",
    "MixedSampler": "replica.tasks.mixture",
    "MixedSplit": "replica.tasks.mixture",
    "bootstrap": "replica.tasks.scoring",
    "collate": "replica.tasks.batches",
    "evaluate": "replica.tasks.evaluation",
    "head_of": "replica.models.auto_classes",
    "score": "replica.tasks.scoring",
    "task_loss": "replica.tasks.batches",
}

__all__ = ["METRICS", "PreparedSplit", "label_count", "prepare", *_WITH_TORCH]


def __getattr__(name: str) -> Any:
    if name not in _WITH_TORCH:
        raise AttributeError(f"module 'replica.tasks' has no attribute '{name}'")
    return getattr(importlib.import_module(_WITH_TORCH[name]), name)
