"""How many positions a model has for a prompt or prefix and its input."""

from __future__ import annotations

from torch import nn

from replica.errors import ConfigError
from replica.models.architectures import position_limit


def check_length(module: nn.Module, length: int) -> None:
    """Raise ConfigError where a body or stack has fewer than `length` position embeddings."""
    limit = position_limit(module.config)
    if limit is not None and length > limit:
        raise ConfigError(f"prompt and input have {length} positions, the model {limit}: lower `tokens` or max_length")
