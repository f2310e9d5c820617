"""Models of a few thousand weights, one of each architecture that tests build."""

from __future__ import annotations

import torch
from torch.profiler import ProfilerActivity, profile

from replica.config.asset_schema import ModelEntry
from replica.meters.batches import loss_of
from replica.meters.semantics import rules

BERT = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
}
ENTRIES = {
    "bert": BERT,
    "roberta": BERT,
    "distilbert": {
        "vocab_size": 50,
        "dim": 16,
        "n_layers": 2,
        "n_heads": 2,
        "hidden_dim": 32,
        "max_position_embeddings": 32,
    },
    "t5": {"vocab_size": 50, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2},
    "vit": {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "image_size": 8,
        "patch_size": 4,
        "num_channels": 1,
    },
}


def entry(architecture: str = "bert", **changes) -> ModelEntry:
    return ModelEntry(title="tiny", architecture=architecture, config={**ENTRIES[architecture], **changes})


def same(a, b) -> bool:
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def profiled_peak(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> int:
    """Return the bytes alive at the peak of a forward and backward pass, by the profiler's record of the CPU's allocator."""
    resident = sum(p.numel() * p.element_size() for p in model.parameters())
    resident += sum(b.untyped_storage().nbytes() for b in model.buffers())
    resident += sum(t.numel() * t.element_size() for t in batch.values())
    with rules(model):
        loss_of(model, batch).backward()
        model.zero_grad(set_to_none=True)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            loss_of(model, batch).backward()
    running = highest = 0
    for event in sorted(profiler.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            running += event.nbytes()
            highest = max(highest, running)
    return resident + highest
