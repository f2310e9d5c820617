"""Hyperformer (Karimi Mahabadi et al. 2021, arXiv 2106.04489): adapters whose weights a hypernetwork makes for task and layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers.activations import ACT2FN

from replica.errors import nearest
from replica.methods.base import Context, Method
from replica.methods.peft.hyperformer.config import HyperformerConfig
from replica.methods.peft.layers import FullLinear
from replica.methods.peft.trainable import also_trained, count, train_only
from replica.models import body
from replica.models.sublayers import sublayer_outputs

#: Name under which the body of a model owns its hypernetworks.
NAME = "hyperformer"


class Generator(nn.Module):
    """Makes the matrix (outputs, inputs) and the bias (outputs) of a linear layer from an embedding (equations 4 and 5)."""

    def __init__(self, projected: int, inputs: int, outputs: int, std: float):
        super().__init__()
        self.inputs, self.outputs = inputs, outputs
        self.weight = FullLinear(projected, inputs * outputs, std)
        self.bias = FullLinear(projected, outputs, std)

    def forward(self, embedding: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Map x (..., inputs) to (..., outputs) by the layer of the embedding (projected,)."""
        matrix = self.weight(embedding).view(self.outputs, self.inputs)
        return functional.linear(x, matrix, self.bias(embedding))


class Hypernetwork(nn.Module):
    """The adapters of one stack: embeddings of its layers, the net that joins task and layer, a generator for each sublayer."""

    def __init__(self, config: HyperformerConfig, width: int, layers: int, sublayers: list[str]):
        super().__init__()
        std, bottleneck = config.initial_std, max(1, width // config.reduction)
        self.layers = nn.Embedding(layers, config.embedding)
        self.join = nn.Sequential(
            FullLinear(2 * config.embedding, config.hidden, std),
            nn.ReLU(),
            FullLinear(config.hidden, config.projected, std),
            nn.LayerNorm(config.projected, eps=1e-6),
        )
        self.activation = ACT2FN[config.activation]
        self.down = nn.ModuleDict({name: Generator(config.projected, width, bottleneck, std) for name in sublayers})
        self.up = nn.ModuleDict({name: Generator(config.projected, bottleneck, width, std) for name in sublayers})

    def forward(self, x: torch.Tensor, task: torch.Tensor, layer: int, sublayer: str) -> torch.Tensor:
        """Return x + Up(f(Down(x))) for x (..., width), by the weights made for the task (embedding,) and the layer."""
        embedding = self.join(torch.cat([task, self.layers.weight[layer]]))
        return x + self.up[sublayer](embedding, self.activation(self.down[sublayer](embedding, x)))


class Hypernetworks(nn.Module):
    """The embeddings of the tasks, and a hypernetwork for each stack; `task` is the number of the task that they act for."""

    task = 0

    def __init__(self, config: HyperformerConfig, width: int, stacks: dict[str, tuple[int, list[str]]]):
        super().__init__()
        self.tasks = config.tasks
        self.embeddings = nn.Embedding(config.tasks, config.embedding)
        self.stacks = nn.ModuleDict(
            {stack: Hypernetwork(config, width, layers, sublayers) for stack, (layers, sublayers) in stacks.items()}
        )

    def forward(self, x: torch.Tensor, stack: str, layer: int, sublayer: str) -> torch.Tensor:
        """Put the output x (..., width) of a sublayer through its adapter."""
        return self.stacks[stack](x, self.embeddings.weight[self.task], layer, sublayer)


class Hyperformer(Method):
    """Adapters after every sublayer whose weights come from a hypernetwork; the model's own weights keep their names."""

    def prepare(self, model: Any, context: Context) -> None:
        """Put the hypernetworks in (unless they were restored), drawn by the run's seed, and freeze the rest."""
        if self.name not in context.restored:
            self.restore(model)
            seeds = torch.Generator().manual_seed(context.seed)
            for module in getattr(body(model), NAME).modules():
                if isinstance(module, FullLinear):
                    module.reset(seeds)
                elif isinstance(module, nn.Embedding) and not module.weight.is_meta:
                    with torch.no_grad():
                        module.weight.copy_(torch.empty(module.weight.shape).normal_(generator=seeds))
        train_only(model, [*getattr(body(model), NAME).parameters(), *also_trained(model, self.config)])

    def restore(self, model: Any) -> None:
        """Put hypernetworks and their hooks into the model; raises ConfigError where the activation or the places are not known."""
        config = self.config
        if config.activation not in ACT2FN:
            known = nearest(config.activation, ACT2FN)
            self.fail(f"unknown activation '{config.activation}'{known}")
        places = sublayer_outputs(model, cross_attention=config.cross_attention)
        with torch.device(next(model.parameters()).device):
            networks = Hypernetworks(config, body(model).config.hidden_size, self._stacks(model))
        body(model).add_module(NAME, networks)
        for place in places:
            place.module.register_forward_hook(_through(networks, place.stack, place.index, place.sublayer))

    def expected(self, model: Any) -> dict[str, float]:
        """Count embeddings, joining nets, and for each stack and sublayer the two generators with their biases."""
        config, width = self.config, body(model).config.hidden_size
        bottleneck = max(1, width // config.reduction)
        pair = (config.projected + 1) * (2 * width * bottleneck + width + bottleneck)
        join = 2 * config.embedding * config.hidden + config.hidden + (config.hidden + 1) * config.projected
        total = config.tasks * config.embedding
        for layers, sublayers in self._stacks(model).values():
            total += layers * config.embedding + join + 2 * config.projected + len(sublayers) * pair
        own = {id(parameter) for parameter in getattr(body(model), NAME).parameters()}
        besides = [parameter for parameter in also_trained(model, config) if id(parameter) not in own]
        return {"trainable_parameters": total + count(besides)}

    def _stacks(self, model: Any) -> dict[str, tuple[int, list[str]]]:
        """Return, by stack, how many layers it has and which sublayers have adapters."""
        stacks: dict[str, tuple[int, list[str]]] = {}
        for place in sublayer_outputs(model, cross_attention=self.config.cross_attention):
            _, sublayers = stacks.get(place.stack, (0, []))
            names = sublayers if place.sublayer in sublayers else [*sublayers, place.sublayer]
            stacks[place.stack] = (place.index + 1, names)
        return stacks


def _through(networks: Hypernetworks, stack: str, layer: int, sublayer: str) -> Callable:
    def hook(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return networks(output, stack, layer, sublayer)

    return hook
