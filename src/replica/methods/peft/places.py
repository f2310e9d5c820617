"""Where adapters stand: the output layer of each self-attention and feed-forward sublayer, and of which layer it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from replica.errors import ConfigError
from replica.models import body, encoder_layers

#: Architecture: paths within a layer to the output layers of its self-attention and its feed-forward sublayer.
OUTPUTS = {
    "bert": ("attention.output.dense", "output.dense"),
    "roberta": ("attention.output.dense", "output.dense"),
    "xlm-roberta": ("attention.output.dense", "output.dense"),
    "electra": ("attention.output.dense", "output.dense"),
    "distilbert": ("attention.out_lin", "ffn.lin2"),
    "t5": ("layer.0.SelfAttention.o", "layer.-1.DenseReluDense.wo"),
    "mt5": ("layer.0.SelfAttention.o", "layer.-1.DenseReluDense.wo"),
    "opt": ("self_attn.out_proj", "fc2"),
}


@dataclass(frozen=True)
class Place:
    """The output layer of a sublayer: of layer `index` (from 0) of its stack, `sublayer` attention or feed-forward."""

    index: int
    sublayer: str
    module: nn.Module


def sublayer_outputs(model: Any, places: str = "both", skip_layers: int = 0) -> list[Place]:
    """Return the output layers of the sublayers, in order; what they give goes through dropout into the residual sum.

    Of an encoder-decoder model both stacks are counted from 0, and cross-attention has no place.
    Raises ConfigError for an architecture whose sublayers are not known here.
    """
    inner = body(model)
    kind = inner.config.model_type
    if kind not in OUTPUTS:
        raise ConfigError(f"where adapters stand in architecture '{kind}' is not known; known: {', '.join(OUTPUTS)}")
    layers = encoder_layers(model)
    depth = inner.config.num_hidden_layers
    found = []
    for number, layer in enumerate(layers):
        index = number if number < depth else number - depth
        if index < skip_layers:
            continue
        for sublayer, path in zip(("attention", "feed-forward"), OUTPUTS[kind], strict=True):
            if places in ("both", sublayer):
                found.append(Place(index, sublayer, _walk(layer, path)))
    return found


def _walk(layer: nn.Module, path: str) -> nn.Module:
    for step in path.split("."):
        layer = layer[int(step)] if step.lstrip("-").isdigit() else getattr(layer, step)
    return layer
