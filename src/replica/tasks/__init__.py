"""Tasks as data: prepared splits, batches, evaluation and metrics for every kind of task.

`prepare` writes a folder once; `PreparedSplit` reads it; `DataLoader(split,
batch_sampler=LengthBucketSampler(split.lengths, …), collate_fn=collate(task, split.facts))` trains on it; `evaluate`,
`score` and `bootstrap` give numbers (`replica.tasks.metrics` has their units). `replica.tasks.mlm` has masking and
the head at masked words.
"""

from replica.models.heads import head_of
from replica.tasks.batches import Collator, collate, task_loss
from replica.tasks.evaluation import evaluate
from replica.tasks.metrics import METRICS
from replica.tasks.prepare import label_count, prepare
from replica.tasks.prepared import PreparedSplit
from replica.tasks.sampler import LengthBucketSampler
from replica.tasks.scoring import bootstrap, score

__all__ = [
    "METRICS",
    "Collator",
    "LengthBucketSampler",
    "PreparedSplit",
    "bootstrap",
    "collate",
    "evaluate",
    "head_of",
    "label_count",
    "prepare",
    "score",
    "task_loss",
]
