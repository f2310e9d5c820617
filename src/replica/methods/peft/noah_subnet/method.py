"""The modules of a subnet found by NOAH (Zhang et al. 2022): visual prompts, LoRA and adapters of each layer's own size."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from replica.methods.base import Context, Method
from replica.methods.peft.layers import fill
from replica.methods.peft.trainable import also_trained, count, train_only
from replica.models import body, encoder_layers
from replica.models.architectures import require
from replica.models.sublayers import part_of

#: Name under which each transformer layer owns its modules.
NAME = "noah"


class LayerModules(nn.Module):
    """The modules of one layer: prompts (p, d), LoRA factors (r, d) and (3 d, r), an adapter d -> h -> d; a size of 0 leaves one out."""

    def __init__(self, width: int, prompts: int, rank: int, bottleneck: int):
        super().__init__()
        self.prompts = nn.Parameter(torch.zeros(prompts, width)) if prompts else None
        self.lora_a = nn.Parameter(torch.zeros(rank, width)) if rank else None
        self.lora_b = nn.Parameter(torch.zeros(3 * width, rank)) if rank else None
        self.down = nn.Linear(width, bottleneck) if bottleneck else None
        self.up = nn.Linear(bottleneck, width) if bottleneck else None

    def reset(self, seeds: torch.Generator) -> None:
        """Draw prompts and adapter by Xavier's rule (biases from normal(0, 1e-6)), A as a linear layer starts; B stays zero."""
        if self.prompts is not None:
            tokens, width = self.prompts.shape
            fill(self.prompts, bound=math.sqrt(6 / (width * (tokens + 1))), seeds=seeds)
        if self.lora_a is not None:
            fill(self.lora_a, bound=1 / math.sqrt(self.lora_a.shape[1]), seeds=seeds)
        for linear in (self.down, self.up):
            if linear is not None:
                fill(linear.weight, bound=math.sqrt(6 / sum(linear.weight.shape)), seeds=seeds)
                fill(linear.bias, std=1e-6, seeds=seeds)


def _add_lora(own: LayerModules, part: int) -> Any:
    def hook(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return output + (inputs[0] @ own.lora_a.t()) @ own.lora_b.chunk(3)[part].t()

    return hook


def _through_adapter(own: LayerModules) -> Any:
    def hook(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        inner = own.down(output)
        return output + own.up(inner * torch.sigmoid(1.702 * inner))

    return hook


def _exchange_prompts(own: LayerModules, before: int) -> Any:
    def hook(module: nn.Module, args: tuple) -> tuple:
        hidden = args[0][:, : args[0].shape[1] - before]
        hidden = torch.cat([hidden, own.prompts.to(hidden.dtype).expand(hidden.shape[0], -1, -1)], 1)
        return (hidden, *args[1:])

    return hook


def _drop_prompts(tokens: int) -> Any:
    def hook(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return output[:, : output.shape[1] - tokens]

    return hook


class NOAHSubnet(Method):
    """Prompts, LoRA and adapters of given sizes in the layers of a vision transformer; the prompts are dropped after the last.

    The published network also has prompts at its input, which the first layer's replace before they are read.
    """

    def prepare(self, model: Any, context: Context) -> None:
        """Put the modules in (unless they were restored), drawn by the run's seed, and freeze the rest."""
        if self.name not in context.restored:
            self.restore(model)
            seeds = torch.Generator().manual_seed(context.seed)
            for layer in encoder_layers(model):
                getattr(layer, NAME).reset(seeds)
        added = [parameter for layer in encoder_layers(model) for parameter in getattr(layer, NAME).parameters()]
        train_only(model, [*added, *also_trained(model, self.config)])

    def restore(self, model: Any) -> None:
        """Put modules with zero weights and their hooks in; raises ConfigError for other architectures and other depths."""
        config, inner = self.config, body(model)
        attention = require(model, like="vit", method=self.name).attention
        layers = encoder_layers(model)
        for field in ("prompts", "lora", "adapters"):
            sizes = getattr(config, field)
            if len(sizes) != len(layers) or min(sizes) < 0:
                self.fail(f"{field} must be {len(layers)} sizes, one for each layer, none below 0: {sizes}")
        device, before = next(model.parameters()).device, 0
        for layer, *sizes in zip(layers, config.prompts, config.lora, config.adapters, strict=True):
            with torch.device(device):
                own = LayerModules(inner.config.hidden_size, *sizes)
            layer.add_module(NAME, own)
            if own.prompts is not None:
                layer.register_forward_pre_hook(_exchange_prompts(own, before))
            if own.lora_a is not None:
                for part, path in enumerate((attention.query, attention.key, attention.value)):
                    part_of(layer, path).register_forward_hook(_add_lora(own, part))
            if own.down is not None:
                layer.mlp.register_forward_hook(_through_adapter(own))
            before = sizes[0] or before
        layers[-1].register_forward_hook(_drop_prompts(before))

    def expected(self, model: Any) -> dict[str, float]:
        """Count p d + r (d + 3 d) + (2 d h + h + d where h > 0) for each layer."""
        width = body(model).config.hidden_size
        own = width * sum(self.config.prompts) + 4 * width * sum(self.config.lora)
        own += sum(2 * width * h + h + width for h in self.config.adapters if h)
        return {"trainable_parameters": own + count(also_trained(model, self.config))}
