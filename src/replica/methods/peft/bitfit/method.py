"""BitFit: the tuning of biases alone, which are added where an architecture has none (Ben Zaken et al. 2022)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from replica.methods.base import Context, Method
from replica.methods.peft.trainable import count, head_parameters, train_only
from replica.models import encoder_layers


def _plus_bias(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
    return output + module.bias


def _without_bias(model: Any) -> tuple[list[nn.Linear], list[nn.Module]]:
    """Return the linear layers without a bias (in the layers, and the output layer) and the norms of the layers without one."""
    inside = [module for layer in encoder_layers(model) for module in layer.modules()]
    linear = [module for module in inside if isinstance(module, nn.Linear) and module.bias is None]
    norms = [
        module
        for module in inside
        if "norm" in type(module).__name__.lower()
        and isinstance(getattr(module, "weight", None), nn.Parameter)
        and getattr(module, "bias", None) is None
    ]
    output = model.get_output_embeddings()
    if isinstance(output, nn.Linear) and output.bias is None:
        linear.append(output)
    return linear, norms


class BitFit(Method):
    """Only biases are trained; T5 gets biases first (see the configuration)."""

    def prepare(self, model: Any, context: Context) -> None:
        """Add biases where there are none (unless they were restored) and freeze all else."""
        if self.name not in context.restored:
            self.restore(model)
        train_only(model, self._trained(model))

    def restore(self, model: Any) -> None:
        """Add a zero bias to linear layers and norms that have none."""
        linear, norms = _without_bias(model)
        for module in linear:
            module.bias = nn.Parameter(torch.zeros(module.out_features, device=module.weight.device))
        for module in norms:
            module.bias = nn.Parameter(torch.zeros(module.weight.shape[0], device=module.weight.device))
            module.register_forward_hook(_plus_bias)

    def expected(self, model: Any) -> dict[str, float]:
        """Count one bias for each output of every linear layer and each channel of every norm that has one, and a new head."""
        biases = 0
        for module in model.modules():
            if isinstance(module, nn.Linear) and module.bias is not None:
                biases += module.out_features
            elif "norm" in type(module).__name__.lower() and getattr(module, "bias", None) is not None:
                biases += module.weight.shape[0]
            elif isinstance(module, Conv1D):
                biases += module.nf
            elif isinstance(module, nn.Conv2d) and module.bias is not None:
                biases += module.out_channels
        weights = [p for p in head_parameters(model) if p.dim() > 1] if self.config.head else []
        return {"trainable_parameters": biases + count(weights)}

    def _trained(self, model: Any) -> list[nn.Parameter]:
        biases = [p for name, p in model.named_parameters() if name.rpartition(".")[2] == "bias"]
        return [*biases, *(head_parameters(model) if self.config.head else [])]
