"""Removal of whole inputs of a linear layer (heads of attention, feed-forward units): gated while training, then cut out."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from replica.errors import ConfigError

#: Boolean buffer on the linear layer that reads the units: the inputs that it keeps.
KEPT = "kept_inputs"
_HANDLE = "_kept_inputs_hook"


def _gate(module: nn.Module, inputs: Any) -> Any:
    return (inputs[0] * getattr(module, KEPT), *inputs[1:])


def add_gate(consumer: nn.Linear) -> None:
    """Let a linear layer multiply its inputs by the buffer `kept_inputs`: all ones at first.

    A unit whose entry is false has no effect and no gradient, as if it were cut out. Raises ConfigError where there is a gate.
    """
    if hasattr(consumer, KEPT):
        raise ConfigError(
            "the layer has a gate on its inputs already: use one method a run that removes heads or units"
        )
    device = consumer.weight.device
    consumer.register_buffer(KEPT, torch.ones(consumer.in_features, dtype=torch.bool, device=device))
    setattr(consumer, _HANDLE, consumer.register_forward_pre_hook(_gate))


def keep_groups(consumer: nn.Linear, scores: torch.Tensor, removed: int) -> None:
    """Remove the `removed` groups of inputs with the lowest scores (groups,); groups are neighbours of equal size."""
    mask = torch.ones_like(scores, dtype=torch.bool)
    mask[scores.argsort(stable=True)[:removed]] = False
    getattr(consumer, KEPT).copy_(mask.repeat_interleave(consumer.in_features // scores.numel()))


def kept_indices(consumer: nn.Linear, count: int) -> torch.Tensor:
    """Return the kept inputs of a gated layer in order; on the meta device the first `count`."""
    mask = getattr(consumer, KEPT)
    return torch.arange(count) if mask.is_meta else mask.nonzero().flatten()


@torch.no_grad()
def cut_outputs(layer: nn.Linear, indices: torch.Tensor) -> None:
    """Leave only these outputs of a linear layer, in place."""
    layer.weight = nn.Parameter(layer.weight[indices], layer.weight.requires_grad)
    if layer.bias is not None:
        layer.bias = nn.Parameter(layer.bias[indices], layer.bias.requires_grad)
    layer.out_features = len(indices)


@torch.no_grad()
def cut_inputs(layer: nn.Linear, indices: torch.Tensor) -> None:
    """Leave only these inputs of a linear layer, in place, and take its gate off."""
    layer.weight = nn.Parameter(layer.weight[:, indices], layer.weight.requires_grad)
    layer.in_features = len(indices)
    if hasattr(layer, KEPT):
        getattr(layer, _HANDLE).remove()
        delattr(layer, _HANDLE)
        delattr(layer, KEPT)
