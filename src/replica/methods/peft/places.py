"""Where adapters stand: the output layer of each sublayer (cross-attention where asked for), and of which layer it is."""

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
    "bart": ("self_attn.out_proj", "fc2"),
    "clip-bart": ("self_attn.out_proj", "fc2"),
}

#: The same of the cross-attention in a decoder's layers.
CROSS_OUTPUTS = {
    "t5": "layer.1.EncDecAttention.o",
    "mt5": "layer.1.EncDecAttention.o",
    "bart": "encoder_attn.out_proj",
    "clip-bart": "encoder_attn.out_proj",
}


@dataclass(frozen=True)
class Place:
    """The output layer of a sublayer: of layer `index` (from 0) of its `stack` (encoder or decoder).

    `sublayer` is attention, cross-attention or feed-forward.
    """

    index: int
    sublayer: str
    module: nn.Module
    stack: str = "encoder"


def sublayer_outputs(
    model: Any, places: str = "both", skip_layers: int = 0, cross_attention: bool = False
) -> list[Place]:
    """Return the output layers of the sublayers, in order; what they give goes through dropout into the residual sum.

    Of an encoder-decoder model both stacks are counted from 0; cross-attention has a place only if asked for, and with both others.
    Raises ConfigError for an architecture whose sublayers are not known here, or without cross-attention where that is asked for.
    """
    inner = body(model)
    kind = inner.config.model_type
    if kind not in OUTPUTS:
        raise ConfigError(f"where adapters stand in architecture '{kind}' is not known; known: {', '.join(OUTPUTS)}")
    if cross_attention and kind not in CROSS_OUTPUTS:
        raise ConfigError(f"cross_attention: architecture '{kind}' has none; these have: {', '.join(CROSS_OUTPUTS)}")
    layers = encoder_layers(model)
    depth = inner.config.num_hidden_layers
    found = []
    for number, layer in enumerate(layers):
        index, stack = (number, "encoder") if number < depth else (number - depth, "decoder")
        if index < skip_layers:
            continue
        paths = dict(zip(("attention", "feed-forward"), OUTPUTS[kind], strict=True))
        if cross_attention and stack == "decoder":
            paths = {"attention": paths["attention"], "cross-attention": CROSS_OUTPUTS[kind], **paths}
        for sublayer, path in paths.items():
            if places in ("both", sublayer):
                found.append(Place(index, sublayer, _walk(layer, path), stack))
    return found


def _walk(layer: nn.Module, path: str) -> nn.Module:
    for step in path.split("."):
        layer = layer[int(step)] if step.lstrip("-").isdigit() else getattr(layer, step)
    return layer
