"""GPT-2's transposed and fused layers as linear layers, queries, keys and values by themselves; and back."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

#: Name of the fused projection in GPT-2's attention.
_FUSED = "c_attn"


class SeparateProjections(nn.Module):
    """Queries, keys and values of a state by a linear layer each, side by side as the fused projection gives them."""

    def __init__(self, fused: Conv1D):
        super().__init__()
        for name, weight, bias in zip(
            ("query", "key", "value"), fused.weight.detach().chunk(3, 1), fused.bias.detach().chunk(3), strict=True
        ):
            self.add_module(name, _linear(weight, bias, fused.weight.requires_grad))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Map (..., width) to (..., 3 x width)."""
        return torch.cat([self.query(states), self.key(states), self.value(states)], -1)

    def fused(self) -> Conv1D:
        """Return one layer with the three's weights."""
        layers = (self.query, self.key, self.value)
        weight = torch.cat([layer.weight.detach() for layer in layers])
        return _transposed(
            weight, torch.cat([layer.bias.detach() for layer in layers]), self.query.weight.requires_grad
        )


def to_linear(model: Any) -> bool:
    """Make linear layers of a model's transposed ones (those of GPT-2; others have none), in place; return whether there were any.

    The fused projection of an attention becomes `SeparateProjections`.
    """
    transposed = [entry for entry in _children(model) if isinstance(entry[2], Conv1D)]
    for parent, name, layer in transposed:
        if name == _FUSED and layer.nf == 3 * layer.nx:
            setattr(parent, name, SeparateProjections(layer))
        else:
            linear = _linear(layer.weight.detach(), layer.bias.detach(), layer.weight.requires_grad)
            setattr(parent, name, linear)
    return bool(transposed)


def to_transposed(model: Any) -> None:
    """Give a GPT-2 that `to_linear` changed its own layers again, with the weights that they have now, in place."""
    separate = {id(layer) for m in model.modules() if isinstance(m, SeparateProjections) for layer in m.children()}
    blocks = [m for m in model.modules() if any(isinstance(child, SeparateProjections) for child in m.children())]
    homes = [m for m in model.modules() if any(block in m.children() for block in blocks)]
    for parent, name, layer in [entry for home in homes for entry in _children(home)]:
        if isinstance(layer, SeparateProjections):
            setattr(parent, name, layer.fused())
        elif isinstance(layer, nn.Linear) and id(layer) not in separate:
            transposed = _transposed(layer.weight.detach(), layer.bias.detach(), layer.weight.requires_grad)
            setattr(parent, name, transposed)


def _linear(weight: torch.Tensor, bias: torch.Tensor, trained: bool) -> nn.Linear:
    """Return a linear layer with a transposed layer's weight (inputs, outputs)."""
    layer = nn.Linear(*weight.shape, device="meta")
    layer.weight = nn.Parameter(weight.t().contiguous(), trained)
    layer.bias = nn.Parameter(bias.clone(), trained)
    return layer


def _transposed(weight: torch.Tensor, bias: torch.Tensor, trained: bool) -> Conv1D:
    """Return a transposed layer with a linear layer's weight (outputs, inputs)."""
    with torch.device("meta"):
        layer = Conv1D(*weight.shape)
    layer.weight = nn.Parameter(weight.t().contiguous(), trained)
    layer.bias = nn.Parameter(bias.clone(), trained)
    return layer


def _children(model: nn.Module) -> list[tuple[nn.Module, str, nn.Module]]:
    return [(parent, name, child) for parent in model.modules() for name, child in parent.named_children()]
