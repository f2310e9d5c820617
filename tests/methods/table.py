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
    Row("sparse-training", {"sparsity": 0.5, "interval": 3}),
    Row("sparse-training", {"sparsity": 0.5, "interval": 3, "update": "set", "distribution": "uniform"}, head="mlm"),
    Row("sparse-training", {"sparsity": 0.5, "update": "snfs", "interval": 3}, head="text2text", architecture="t5"),
    Row("iterative-magnitude-pruning", {"rounds": 1}),
    Row("iterative-magnitude-pruning", {"rounds": 1, "repel": 0.01, "reach": "layer"}, head="mlm"),
    Row("hard-concrete-mask", {"penalty": 0.0}, learning_rate=0.3),
    Row("hard-concrete-mask", {"penalty": 0.0}, head="mlm", learning_rate=0.3),
    Row("slimming-ticket", {"draw": 0.8, "heads": 0.25}),
    Row("slimming-ticket", {"scores": "random"}),
    Row("quantization-aware-training"),
    Row("quantization-aware-training", head="mlm"),
    Row("quantization-aware-training", head="text2text", architecture="t5"),
    Row("quantization-aware-training", {"packed_density": 1.0}),
    # pre-training
    Row("throwaway-decoder", head="mlm"),
    Row("throwaway-decoder", {"blocks": 3, "readmitted": [0.0, 0.5, 1.0]}, head="pretraining"),
    # binarization
    Row("bipft"),
    Row("bipft", {"estimators": False}),
    Row("bipft", {"store": "packed"}),
    Row("bipft", head="pretraining"),
    # less memory
    Row("slimfit", {"rate": 0.5}),
    Row("slimfit", {"rate": 0.75, "full_copy": False}, head="mlm"),
    Row("galore", {"rank": 4, "scale": 1.0}),
    Row("galore", {"rank": 4, "scale": 1.0, "bits": 8, "smallest": 32, "block": 64, "per_layer": True}, head="mlm"),
    Row("eight-bit-optimizer"),
    Row("eight-bit-optimizer", {"update": "momentum", "smallest": 64}, learning_rate=0.1),
    Row("eight-bit-optimizer", {"engine": "reference", "smallest": 64, "block": 2048}),
    Row("eight-bit-optimizer", {"engine": "reference", "smallest": 64, "code": "quantile", "block": None}, head="mlm"),
    Row("optimizer-state-error", {"blocks": [64], "smallest": 64}),
    Row("stable-embedding"),
    Row("stable-embedding", head="mlm"),
    Row("stable-embedding", {"draw": False}, head="text2text", architecture="t5"),
    # private
    Row("private-gradients", {"clip": 1.0, "noise": 0.1, "chunk": 3}),
    Row("private-gradients", {"clip": 1.0, "batch": 8, "noise": 0.1, "vectorised": False, "sampling": "shuffled"}),
    Row("private-gradients", {"clip": 1.0, "noise": 0.1, "rank": 2}),
    Row("private-gradients", {"clip": 1.0, "noise": 0.1, "chunk": 3}, head="completion", architecture="gpt2"),
    # searches
    Row("s3pet", {"budget": 0.05}, head="text2text", architecture="t5", learning_rate=3e-2),
    Row("s3pet", {"budget": 0.05, "space": "lora"}, head="text2text", architecture="t5", learning_rate=3e-2),
    Row("s3pet", {"budget": 0.1, "order": "first"}, learning_rate=3e-2),
    Row("s3pet", {"budget": 0.1, "phase": "retrain", "structure": "random"}, learning_rate=3e-2),
    # efficient fine-tuning
    Row("compacter", {"reduction": 4}),
    Row("compacter", {"reduction": 4, "places": "feed-forward"}, head="text2text", architecture="t5"),
    Row("compacter", {"reduction": 4, "own_rules": True, "biases": False, "rule_std": 0.1}),
    Row("phm-adapter", {"n": 4, "reduction": 4}),
    Row("adapter", {"reduction": 4}),
    Row("adapter", {"reduction": 4, "tasks": 2, "shared": "up"}),
    Row("adapter", {"reduction": 4, "cross_attention": True}, head="text2text", architecture="t5"),
    Row("phm-adapter", {"n": 2, "reduction": 4, "tasks": 2}),
    Row("hyperformer", {"reduction": 4, "embedding": 16, "hidden": 8, "projected": 4, "tasks": 2}),
    Row("adapter-drop", {"skip_layers": 1, "reduction": 4}),
    Row("adapter-lowrank", {"reduction": 4}),
    Row("sparse-adapter", {"reduction": 4, "sparsity": 0.5}),
    Row("sparse-adapter", {"reduction": 4, "score": "magnitude", "scope": "local"}),
    Row("sparse-adapter", {"reduction": 4, "sparsity": 0.5, "score": "grasp"}),
    Row("sparse-adapter", {"reduction": 4, "sparsity": 0.5, "score": "synflow"}),
    Row("sparse-modules", {"sparsity": 0.5}),
    Row("sparse-modules", {"sparsity": 0.3, "score": "magnitude", "scope": "local"}),
    Row("deft"),
    Row("deft", {"padding": False, "weight": 0.5}, head="text2text", architecture="t5"),
    Row("mixture-of-domain-adapters", {"layers": [1]}, head="mlm"),
    Row("mixture-of-domain-adapters", {"layers": [0, 1], "gate": "released", "gate_width": 8}, head="mlm"),
    Row(
        "mixture-of-domain-adapters",
        {"layers": [0], "gate": "none", "general": False, "adapters": 2, "which": 1},
        head="mlm",
    ),
    Row("bitfit"),
    Row("freeze", {"names": ["*embeddings*"]}),
    Row("layer-norm-tuning"),
    Row("lora", {"rank": 2}),
    Row("lora", {"rank": 2}, head="completion", architecture="gpt2", learning_rate=2e-2),
    Row("lora-top", {"rank": 2, "skip_layers": 1}),
    Row("prompt-tuning", {"tokens": 5}, learning_rate=3e-2),
    Row("prompt-tuning", {"tokens": 5, "hidden": 8}, learning_rate=3e-2),
    Row("prefix-tuning", {"tokens": 5}, learning_rate=3e-2),
    Row("intrinsic-said", {"dimension": 200}, learning_rate=3e-2),
    Row("adapter", {"reduction": 4, "norm": True, "layer_norms": False}),
    Row("compacter", {"reduction": 4, "norm": True, "train_rule": False, "places": "feed-forward"}, "image", "vit"),
    Row("fact", {"rank": 4}, "image", "vit"),
    Row("fact", {"rank": 4, "form": "tucker"}, "image", "vit"),
    Row("fact", {"rank": 4}),
    Row("kadaptation", {"n": 4, "scale": 8}),
    Row("kadaptation", {"n": 4, "scale": 8}, "image", "vit"),
    Row("noah-subnet", {"prompts": [3, 1], "lora": [0, 2], "adapters": [4, 0]}, "image", "vit"),
    Row("dsee", {"rank": 2, "entries": 6, "rounds": 2}),
    Row("dsee", {"rank": 2, "entries": 6, "sparsity": 0.2}, head="completion", architecture="gpt2", learning_rate=2e-2),
    Row("dsee", {"rank": 2, "entries": 6, "support": "random", "sparsity": 0.2, "heads": 1, "units": 0.25}),
    Row("ladder-side-tuning", {"reduction": 2}),
    Row("ladder-side-tuning", {"reduction": 2, "start": "magnitude", "within_heads": True}),
    Row("ladder-side-tuning", {"reduction": 4, "layers": [1], "start": "random"}, head="mlm"),
    Row("ladder-side-tuning", {"reduction": 2, "layers": [1]}, head="text2text", architecture="t5", learning_rate=3e-2),
    Row("ladder-side-tuning", {"reduction": 2}, head="text2text", architecture="bart", learning_rate=3e-2),
    Row(
        "ladder-side-tuning",
        {"reduction": 2, "also": ["*.visual.*"]},
        head="text2text",
        architecture="clip-bart",
        learning_rate=3e-2,
    ),
    Row(
        "ladder-side-tuning",
        {"reduction": 2, "also": ["*.visual.*"]},
        head="text2text",
        architecture="clip-t5",
        learning_rate=3e-2,
    ),
    Row(
        "adapter",
        {"reduction": 4, "cross_attention": True},
        head="text2text",
        architecture="clip-t5",
        learning_rate=3e-2,
    ),
]
