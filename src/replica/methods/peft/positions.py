"""How many positions a model has for a prompt or prefix and its input, and the mask that covers both."""

from __future__ import annotations

import torch
from torch import nn

from replica.errors import ConfigError
from replica.models.architectures import position_limit


def check_length(module: nn.Module, length: int) -> None:
    """Raise ConfigError where a body or stack has fewer than `length` position embeddings."""
    limit = position_limit(module.config)
    if limit is not None and length > limit:
        raise ConfigError(f"prompt and input have {length} positions, the model {limit}: lower `tokens` or max_length")


def with_tokens(mask: torch.Tensor, tokens: int) -> torch.Tensor:
    """Return a mask of attention with `tokens` positions before its last dimension that all may see.

    The mask is of ones and zeros or of bools, (rows, length), or of numbers to add to the scores, (rows, 1, 1 or queries, length).
    """
    added = mask.is_floating_point() and mask.dim() == 4
    return torch.cat([mask.new_full((*mask.shape[:-1], tokens), 0 if added else 1), mask], -1)
