"""Models of a few thousand weights, one of each architecture that tests build."""

from __future__ import annotations

import torch

from replica.config.asset_schema import ModelEntry

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
