"""GPT-2's fused projection of queries, keys and values as three linear layers, and back."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

#: Name of the fused projection in GPT-2's attention.
_FUSED = "c_attn"
#: Architecture with fused projections: the names of queries and values once they are separate.
QUERY_VALUE = {"gpt2": ("query", "value")}


class SeparateProjections(nn.Module):
    """Queries, keys and values of a state by a layer each, side by side as the fused projection gives them."""

    def __init__(self, fused: Conv1D):
        super().__init__()
        width = fused.weight.shape[0]
        for name, weight, bias in zip(
            ("query", "key", "value"), fused.weight.detach().chunk(3, 1), fused.bias.detach().chunk(3), strict=True
        ):
            layer = nn.Linear(width, width, device=weight.device, dtype=weight.dtype)
            layer.weight = nn.Parameter(weight.t().contiguous(), requires_grad=fused.weight.requires_grad)
            layer.bias = nn.Parameter(bias.clone(), requires_grad=fused.bias.requires_grad)
            self.add_module(name, layer)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Map (..., width) to (..., 3 x width)."""
        return torch.cat([self.query(states), self.key(states), self.value(states)], -1)

    def fused(self) -> Conv1D:
        """Return one layer with the three's weights."""
        layers = (self.query, self.key, self.value)
        trained = self.query.weight.requires_grad
        weight = torch.cat([layer.weight.detach().t() for layer in layers], 1).contiguous()
        with torch.device("meta"):
            joined = Conv1D(weight.shape[1], weight.shape[0])
        joined.weight = nn.Parameter(weight, requires_grad=trained)
        joined.bias = nn.Parameter(torch.cat([layer.bias.detach() for layer in layers]), requires_grad=trained)
        return joined


def separate(model: Any) -> bool:
    """Replace the fused self-attention projections of a model (those of GPT-2; others have none) by three layers each, in place.

    Says whether there were any.
    """
    found = [entry for entry in _children(model) if entry[1] == _FUSED and isinstance(entry[2], Conv1D)]
    found = [entry for entry in found if entry[2].nf == 3 * entry[2].nx]
    for parent, name, module in found:
        setattr(parent, name, SeparateProjections(module))
    return bool(found)


def fuse(model: Any) -> None:
    """Replace separated projections by the fused layers they were, with the weights that the three have now, in place."""
    for parent, name, module in _children(model):
        if isinstance(module, SeparateProjections):
            setattr(parent, name, module.fused())


def _children(model: Any) -> list[tuple[nn.Module, str, nn.Module]]:
    return [(parent, name, child) for parent in model.modules() for name, child in parent.named_children()]
