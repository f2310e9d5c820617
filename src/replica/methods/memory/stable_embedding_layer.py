"""A word embedding with a layer norm; 8-bit optimizers keep its states in 32 bits."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class StableEmbedding(nn.Embedding):
    """An embedding whose output goes through a layer norm of its own; it takes over another embedding's weight parameter."""

    def __init__(self, source: nn.Embedding):
        super().__init__(source.num_embeddings, source.embedding_dim, padding_idx=source.padding_idx, device="meta")
        self.weight = source.weight
        self.norm = nn.LayerNorm(source.embedding_dim, device=source.weight.device)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Map word numbers (...) to normalised embeddings (..., width)."""
        return self.norm(functional.embedding(input, self.weight, self.padding_idx))
