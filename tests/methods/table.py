"""One row per method: every method joins the tests of test_table.py by its row here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Row:
    """A method with a configuration that trains on a tiny model.

    `head` is the task kind, `architecture` the tiny backbone; `teacher` gives the run a teacher of the same kind.
    """

    method: str
    config: dict[str, Any] = field(default_factory=dict)
    head: str = "classification"
    architecture: str = "bert"
    teacher: bool = False
    steps: int = 12
    learning_rate: float = 5e-3


ROWS: list[Row] = [
    # distillation
    Row("minilm", head="text", teacher=True),
    Row("minilm", {"value": "none"}, head="text", teacher=True),
    Row("minilm", {"value": "mse"}, head="text", teacher=True),
    Row("minilm", {"layers": "uniform"}, head="text", teacher=True),
    Row("logit-distillation", teacher=True),
    Row("tinybert-distillation", head="text", teacher=True),
    Row("hidden-distillation", head="pretraining", teacher=True),
    # pruning and quantization
    Row("gradual-magnitude-pruning", {"sparsity": 0.5}),
    Row("gradual-magnitude-pruning", {"sparsity": 0.5, "block": [1, 4]}, head="mlm"),
    Row("gradual-magnitude-pruning", {"sparsity": 0.5}, head="text2text", architecture="t5"),
    Row("lr-rewinding"),
    Row("pattern-lock"),
    Row("pattern-lock", head="mlm"),
    Row("quantization-aware-training"),
    Row("quantization-aware-training", head="mlm"),
    Row("quantization-aware-training", head="text2text", architecture="t5"),
    Row("quantization-aware-training", {"packed_density": 1.0}),
    # binarization
    Row("bipft"),
    Row("bipft", {"estimators": False}),
    Row("bipft", {"store": "packed"}),
    Row("bipft", head="pretraining"),
    # efficient fine-tuning
    Row("compacter", {"reduction": 4}),
    Row("compacter", {"reduction": 4, "places": "feed-forward"}, head="text2text", architecture="t5"),
    Row("phm-adapter", {"n": 4, "reduction": 4}),
    Row("adapter", {"reduction": 4}),
    Row("adapter-drop", {"skip_layers": 1, "reduction": 4}),
    Row("adapter-lowrank", {"reduction": 4}),
    Row("sparse-adapter", {"reduction": 4, "sparsity": 0.5}),
    Row("sparse-adapter", {"reduction": 4, "score": "magnitude", "scope": "local"}),
    Row("bitfit"),
    Row("layer-norm-tuning"),
    Row("lora", {"rank": 2}),
    Row("prompt-tuning", {"tokens": 5}, learning_rate=3e-2),
    Row("prefix-tuning", {"tokens": 5}, learning_rate=3e-2),
    Row("intrinsic-said", {"dimension": 200}, learning_rate=3e-2),
    Row("ladder-side-tuning", {"reduction": 2}),
    Row("ladder-side-tuning", {"reduction": 4, "layers": [1], "start": "random"}, head="mlm"),
    Row("ladder-side-tuning", {"reduction": 2, "layers": [1]}, head="text2text", architecture="t5", learning_rate=3e-2),
]
