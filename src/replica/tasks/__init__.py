"""Tasks as data: prepared splits, batches, predictions and metrics for every kind of task (`replica.tasks.kinds`).

`prepare` writes a folder once; `PreparedSplit` reads it; `DataLoader(split,
batch_sampler=LengthBucketSampler(split.lengths, …), collate_fn=collate(task, split.facts))` trains on it; `evaluate`,
`score` and `bootstrap` give numbers (`replica.tasks.metrics` has their units). Each name is imported at its first use: planning
reads `kinds` and `METRICS` without torch, pandas or pyarrow.
"""

from __future__ import annotations

import importlib
from typing import Any

_MODULES = {
    "Collator": "collator",
    "LengthBucketSampler": "sampler",
    "METRICS": "metrics",
    "MixedCollator": "mixed_tasks",
    "MixedSampler": "mixed_tasks",
    "MixedSplit": "mixed_tasks",
    "PreparedSplit": "prepared",
    "bootstrap": "scoring",
    "collate": "collator",
    "evaluate": "prediction",
    "prepare": "preparation",
    "score": "scoring",
    "task_loss": "collator",
}

__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'replica.tasks' has no attribute '{name}'")
    return getattr(importlib.import_module(f"replica.tasks.{_MODULES[name]}"), name)
