"""Bottleneck adapters of any kind of layer: put into the sublayers, drawn, trained with the layer norms, counted.

An adapter is a child of the output layer of its sublayer, and a forward hook of that layer applies it: the layer's own weights keep
their names. With `input: normed` a hook of the sublayer's norm does. Every function takes the method for its configuration, an
`AdapterOptions`, and for its name in errors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from transformers.activations import ACT2FN

from replica.errors import nearest
from replica.methods.base import Context, Method
from replica.methods.peft.layers import Adapter, TaskLayers
from replica.methods.peft.trainable import also_trained, count, train_only
from replica.models import body
from replica.models.architectures import architecture_of
from replica.models.sublayers import Place, part_of, sublayer_outputs

#: Makes a layer with a bias from its numbers of inputs and outputs.
MakeLayer = Callable[[int, int], nn.Module]


def insert_adapters(method: Method, model: Any, make: MakeLayer, n: int = 1) -> None:
    """Put adapters of `make`'s layers, all zero, into the model; `n` must divide the sizes.

    Raises ConfigError for an unknown activation, where no layer gets an adapter, where one has an adapter already, or for `input: normed`
    where norms come before their sublayers.
    """
    config, hidden = method.config, body(model).config.hidden_size
    if config.activation not in ACT2FN:
        method.fail(f"unknown activation '{config.activation}'{nearest(config.activation, ACT2FN)}")
    places = _places(method, model)
    if not places:
        method.fail(f"skip_layers {config.skip_layers} leaves no layer with an adapter")
    width = bottleneck(method, hidden, n)
    for place in places:
        if hasattr(place.module, "adapter"):
            method.fail("the model has adapters already; use one adapter method a run")
        with torch.device(next(model.parameters()).device):
            norm = nn.LayerNorm(hidden) if config.norm else None
            down, up = _half(config, "down", hidden, width, make), _half(config, "up", width, hidden, make)
            adapter = Adapter(down, up, config.activation, norm, config.dropout).train(place.module.training)
        place.module.add_module("adapter", adapter)
        if config.input == "output":
            place.module.register_forward_hook(_through_adapter)
            continue
        norm = _norm_after(method, model, place)
        norm.its_adapter = (adapter,)  # in a tuple: the output layer owns it
        norm.register_forward_pre_hook(_before_norm)


def adapters(method: Method, model: Any) -> list[Adapter]:
    """Return the adapters of a prepared or restored model, in the order of their places."""
    return [place.module.adapter for place in _places(method, model)]


def prepare_adapters(method: Method, model: Any, context: Context) -> None:
    """Put the method's adapters in (unless they were restored), drawn by the run's seed, and freeze the rest."""
    if method.name not in context.restored:
        method.restore(model)
        draw_adapters(method, model, torch.Generator().manual_seed(context.seed))
    train_adapters(method, model)


def draw_adapters(method: Method, model: Any, seeds: torch.Generator) -> None:
    """Draw the weights of every adapter, in the order of their places."""
    for adapter in adapters(method, model):
        adapter.reset(seeds)


def train_adapters(
    method: Method, model: Any, more: Iterable[nn.Parameter] = (), but: Iterable[nn.Parameter] = ()
) -> None:
    """Freeze the model except the adapters (without the parameters in `but`), `more`, and the configuration's other trained parameters."""
    frozen = {id(parameter) for parameter in but}
    own = [p for adapter in adapters(method, model) for p in adapter.parameters() if id(p) not in frozen]
    train_only(model, [*own, *more, *also_trained(model, method.config)])


def count_trained(method: Method, model: Any, matrix: Callable[[int, int], int], n: int = 1) -> int:
    """Return how many parameters train: `matrix(hidden, bottleneck)` for each layer of an adapter, biases, norms and the rest."""
    config, hidden = method.config, body(model).config.hidden_size
    width = bottleneck(method, hidden, n)
    downs, ups = (1 if config.shared == half else config.tasks for half in ("down", "up"))
    biases = (width, hidden) if config.biases else (0, 0)
    each = downs * (matrix(hidden, width) + biases[0]) + ups * (matrix(hidden, width) + biases[1])
    each += 2 * hidden if config.norm else 0
    others = also_trained(model, config)
    if config.norm and config.layer_norms:
        own = {id(parameter) for adapter in adapters(method, model) for parameter in adapter.parameters()}
        others = [parameter for parameter in others if id(parameter) not in own]
    return len(_places(method, model)) * each + count(others)


def bottleneck(method: Method, hidden: int, n: int = 1) -> int:
    """Return the width of the bottleneck; raises ConfigError where n does not divide the sizes."""
    width = method.config.bottleneck or -(-max(1, hidden // method.config.reduction) // n) * n
    if hidden % n or width % n:
        method.fail(f"n = {n} must divide the hidden size {hidden} and the bottleneck {width}")
    return width


def _half(config: Any, half: str, inputs: int, outputs: int, make: MakeLayer) -> nn.Module:
    """Return the down- or up-projection: one layer, or one for each task that has its own."""
    layers = [make(inputs, outputs) for _ in range(1 if config.shared == half else config.tasks)]
    if not config.biases:
        for layer in layers:
            layer.bias = None
    return layers[0] if config.tasks == 1 or config.shared == half else TaskLayers(layers)


def _places(method: Method, model: Any) -> list[Place]:
    config = method.config
    return sublayer_outputs(model, config.places, config.skip_layers, config.cross_attention)


def _norm_after(method: Method, model: Any, place: Place) -> nn.Module:
    """Return the norm that reads the sum of a sublayer's output and the residual."""
    row = architecture_of(model)
    if row.norms_first(body(model).config) or not place.norm:
        method.fail(f"`input: normed` needs a norm after each sublayer, which architecture '{row.name}' does not have")
    return part_of(place.layer, place.norm)


def _before_norm(norm: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Add Up(f(Down(LayerNorm(s)))) to the sum s of output and residual that the norm is about to read."""
    total, *rest = inputs
    return norm.its_adapter[0](total, norm.forward(total)), *rest


def _through_adapter(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
    return module.adapter(output)
