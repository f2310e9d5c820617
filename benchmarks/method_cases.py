"""What `benchmarks/methods.py` times: methods as runs name them, and the nearest thing that another library has to each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from replica.methods import Method, parse

#: Families whose methods are timed.
FAMILIES = ("peft", "memory", "privacy", "search")
#: Changes to registered models: the small image transformer at the encoder's shape, 64 patches and 6 layers x 384.
IMAGE = {
    "image_size": 16, "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536,
    "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1,
}  # fmt: skip
MODELS = {"classification": ("all-minilm-l6", {}), "mlm": ("all-minilm-l6", {}), "image": ("vit-4x64", IMAGE)}
#: The name of full fine-tuning by the Trainer's own AdamW (torch's, fused); the peer of what changes the update alone.
FULL = "full"


@dataclass(frozen=True)
class Case:
    """A method, or several in a run's order, and the name of its peer.

    `restored` are methods whose modules are in the model before `prepare`, as of a run that starts `from:` another. `reason` says why a
    step takes more than 1.3 times what its arithmetic says against the peer. `inner_gradients`: the loss takes gradients itself, so that
    what it saves for backward is not alive at one time, and is not counted.
    """

    methods: list[dict[str, Any]]
    peer: str
    head: str = "classification"
    restored: tuple[str, ...] = ()
    reason: str = ""
    inner_gradients: bool = False


def _case(
    name: str,
    peer: str,
    *others: dict[str, Any],
    head: str = "classification",
    reason: str = "",
    inner: bool = False,
    **config: Any,
) -> Case:
    return Case([{"name": name, **config}, *others], peer, head, reason=reason, inner_gradients=inner)


CASES: dict[str, Case] = {
    # updates of weights
    "lora": _case("lora", "peft-lora-qv"),
    "lora, upper half": _case("lora-top", "peft-lora-qv", skip_layers=3),
    "lora, pruned": _case("lora", "peft-lora-qv", {"name": "sparse-modules", "examples": 32}, initial_std=0.02),
    "dsee": _case("dsee", "peft-lora-qv", rank=8, rounds=2),
    "dsee, pruned": _case("dsee", "peft-lora-qv", rank=8, rounds=2, sparsity=0.3, heads=2, prune_at=0.0),
    "deft": _case("lora", "peft-lora-qv", {"name": "deft"}),
    "kadaptation": _case("kadaptation", "peft-lora-qv"),
    "kadaptation, image": _case("kadaptation", "peft-lora-qv-image", head="image"),
    "fact, tensor train": _case("fact", "peft-lora-all-image", head="image", rank=16),
    "fact, tucker": _case("fact", "peft-lora-all-image", head="image", rank=16, form="tucker"),
    "noah-subnet": _case(
        "noah-subnet", "peft-lora-all-image", head="image", prompts=[4] * 6, lora=[8] * 6, adapters=[8] * 6
    ),
    "intrinsic-said": _case("intrinsic-said", "peft-lora-all", dimension=20_000),
    "bitfit": _case("bitfit", "peft-norms"),
    "layer-norm-tuning": _case("layer-norm-tuning", "peft-norms"),
    # adapters
    "adapter": _case("adapter", "peft-lora-outputs"),
    "adapter, feed-forward": _case("adapter", "peft-lora-feed-forward", places="feed-forward"),
    "adapter, 4 tasks that share": _case("adapter", "peft-lora-outputs", tasks=4, shared="down"),
    "adapter-drop": _case("adapter-drop", "peft-lora-outputs", skip_layers=3),
    "adapter-lowrank": _case("adapter-lowrank", "peft-lora-outputs"),
    "sparse-adapter": _case("sparse-adapter", "peft-lora-outputs", examples=32),
    "compacter": _case("compacter", "peft-lora-outputs"),
    "compacter++": _case("compacter", "peft-lora-feed-forward", places="feed-forward"),
    "phm-adapter": _case("phm-adapter", "peft-lora-outputs"),
    "hyperformer": _case("hyperformer", "peft-lora-outputs"),
    "mixture-of-domain-adapters, domain": _case(
        "mixture-of-domain-adapters", "peft-lora-qv-words", head="mlm", layers=[2, 5]
    ),
    "mixture-of-domain-adapters, task": Case(
        [
            {"name": "adapter", "places": "feed-forward"},
            {"name": "mixture-of-domain-adapters", "stage": "task", "layers": [2, 5]},
        ],
        "peft-lora-feed-forward",
        restored=("mixture-of-domain-adapters",),
    ),
    "freeze": _case("freeze", FULL, names=["*embeddings*"]),
    # prompts and side networks
    "prompt-tuning": _case("prompt-tuning", "peft-prompt", tokens=20),
    "prefix-tuning": _case("prefix-tuning", "peft-prefix", tokens=20),
    "ladder-side-tuning": _case(
        "ladder-side-tuning",
        "peft-lora-qv",
        fisher_examples=16,
        reason="the side network has as many heads as the backbone: softmax and dropout of its attention probabilities, which count no "
        "FLOPs, cost as much again as the backbone's, at an eighth of the width",
    ),
    # searches
    "s3pet, search": _case("s3pet", "peft-lora-rank-1", inner=True, budget=0.001),
    "s3pet, search of the first order": _case("s3pet", "peft-lora-rank-1", inner=True, budget=0.001, order="first"),
    "s3pet, retrained": _case("s3pet", "peft-lora-rank-1", budget=0.001, phase="retrain", structure="random"),
    # privacy
    "private-gradients": Case(
        [{"name": "lora"}, {"name": "private-gradients", "noise": 1.0, "sampling": "shuffled"}],
        "opacus-lora-qv",
        inner_gradients=True,
    ),
    "private-gradients, one by one": Case(
        [{"name": "lora"}, {"name": "private-gradients", "noise": 1.0, "sampling": "shuffled", "vectorised": False}],
        "opacus-lora-qv",
        inner_gradients=True,
        reason="an example at a time by choice: 16 passes with 16 times the calls, on products a sixteenth as large",
    ),
    # memory
    "slimfit": _case("slimfit", FULL),
    "slimfit, uncompressed": _case("slimfit", FULL, compress=False),
    "galore": _case("galore", FULL),
    "galore, 8 bits by layer": _case("galore", "bitsandbytes-adamw8bit", bits=8, per_layer=True),
    "eight-bit-optimizer": _case("eight-bit-optimizer", "bitsandbytes-adamw8bit"),
    "eight-bit-optimizer, reference": _case(
        "eight-bit-optimizer",
        "bitsandbytes-adamw8bit",
        engine="reference",
        reason="the paper's rule written out in torch: a pass over the states for each operation, where the library has one kernel",
    ),
    "eight-bit-optimizer, momentum": _case("eight-bit-optimizer", "bitsandbytes-sgd8bit", update="momentum"),
    "stable-embedding": _case("stable-embedding", FULL),
    "optimizer-state-error": _case("optimizer-state-error", FULL),
}


def own(case: Case) -> list[tuple[frozenset[str], Method]]:
    """Instantiate a case's methods, each with what it changes."""
    parsed = [parse(reference) for reference in case.methods]
    return [(entry.changes, entry.create(config)) for entry, config in parsed]


class Optimized(Method):
    """Stands for a library's optimizer of all that is trained; `after` is called when a step is done."""

    def __init__(self, make: Callable[[list], Any], after: Callable[[Any], None] = lambda optimizer: None):
        super().__init__(None)
        self.make, self.after = make, after

    def optimizer(self, model: Any, context: Any) -> Any:
        """Return the library's optimizer."""
        return self.make([parameter for parameter in model.parameters() if parameter.requires_grad])

    def on_step_end(self, model: Any, context: Any) -> None:
        """Do what the library's own loop does after a step."""
        self.after(context.optimizer)


@dataclass(frozen=True)
class Peer:
    """Another library's way: `build` changes the model and returns it with the optimizer that it brings, if any."""

    says: str
    build: Callable[[Any], tuple[Any, Method | None]] = field(repr=False)


def _peft(says: str, kind: str, head: str | None = "classifier", **options: Any) -> Peer:
    def build(model: Any) -> tuple[Any, None]:
        import peft

        kept = {} if head is None or "task_type" in options else {"modules_to_save": [head]}
        return peft.get_peft_model(model, getattr(peft, kind)(**options, **kept)), None

    return Peer(says, build)


def _lora(says: str, rank: int, layers: str, head: str | None = "classifier") -> Peer:
    return _peft(says, "LoraConfig", head, r=rank, lora_alpha=2 * rank, target_modules=layers)


def _bitsandbytes(name: str, **options: Any) -> Peer:
    def build(model: Any) -> tuple[Any, Method]:
        import bitsandbytes

        return model, Optimized(lambda trained: getattr(bitsandbytes.optim, name)(trained, lr=1e-4, **options))

    return Peer(f"bitsandbytes' {name} on all weights", build)


def _opacus() -> Peer:
    def build(model: Any) -> tuple[Any, Method]:
        import torch
        from opacus import GradSampleModule
        from opacus.optimizers import DPOptimizer

        model, _ = PEERS["peft-lora-qv"].build(model)
        GradSampleModule(model)  # its hooks stay on the modules of the model

        def make(trained: list) -> Any:
            plain = torch.optim.AdamW(trained, lr=1e-4)
            return DPOptimizer(plain, noise_multiplier=1.0, max_grad_norm=10.0, expected_batch_size=16)

        return model, Optimized(make, lambda optimizer: optimizer.zero_grad())

    return Peer("opacus' hooks and DPOptimizer on peft's LoRA of queries and values, rank 8", build)


_QV, _LINEARS = r".*\.(query|value)", r".*encoder\.layer\..*\.(query|key|value|dense)"
_IMAGE_QV, _IMAGE_LINEARS = r".*\.(q_proj|v_proj)", r".*\.(q_proj|k_proj|v_proj|o_proj|fc1|fc2)"

PEERS: dict[str, Peer] = {
    "peft-lora-qv": _lora("peft's LoRA of queries and values, rank 8", 8, _QV),
    "peft-lora-qv-words": _lora("peft's LoRA of queries and values, rank 8, on masked words", 8, _QV, None),
    "peft-lora-all": _lora("peft's LoRA of all linear layers, rank 16", 16, _LINEARS),
    "peft-lora-rank-1": _lora("peft's LoRA of all linear layers, rank 1", 1, _LINEARS),
    "peft-lora-outputs": _lora(
        "peft's LoRA of both sublayers' output matrices, rank 12 (peft has no adapters)", 12, r".*\.output\.dense"
    ),
    "peft-lora-feed-forward": _lora(
        "peft's LoRA of the feed-forward output matrices, rank 12 (peft has no adapters)",
        12,
        r".*layer\.\d+\.output\.dense",
    ),
    "peft-lora-qv-image": _lora("peft's LoRA of queries and values, rank 8, images", 8, _IMAGE_QV),
    "peft-lora-all-image": _lora("peft's LoRA of all linear layers, rank 16, images", 16, _IMAGE_LINEARS),
    "peft-norms": _peft("peft's LNTuning", "LNTuningConfig", target_modules=["LayerNorm"]),
    "peft-prompt": _peft(
        "peft's prompt tuning, 20 tokens", "PromptTuningConfig", task_type="SEQ_CLS", num_virtual_tokens=20
    ),
    "peft-prefix": _peft(
        "peft's prefix tuning, 20 tokens", "PrefixTuningConfig", task_type="SEQ_CLS", num_virtual_tokens=20
    ),
    "bitsandbytes-adamw8bit": _bitsandbytes("AdamW8bit"),
    "bitsandbytes-sgd8bit": _bitsandbytes("SGD8bit", momentum=0.9),
    "opacus-lora-qv": _opacus(),
}
