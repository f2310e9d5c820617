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
    "opt": ("self_attn.out_proj", "fc2"),
    "vit": ("attention.o_proj", "mlp.fc2"),
    "clip_vision_model": ("self_attn.out_proj", "mlp.fc2"),
    "bart": ("self_attn.out_proj", "fc2"),
    "clip-bart": ("self_attn.out_proj", "fc2"),
    "clip-t5": ("layer.0.SelfAttention.o", "layer.-1.DenseReluDense.wo"),
}

#: The same of the cross-attention in a decoder's layers.
CROSS_OUTPUTS = {
    "t5": "layer.1.EncDecAttention.o",
    "mt5": "layer.1.EncDecAttention.o",
    "bart": "encoder_attn.out_proj",
    "clip-bart": "encoder_attn.out_proj",
    "clip-t5": "layer.1.EncDecAttention.o",
}

#: Architecture: last parts of the names of the query and value projections.
QUERY_VALUE = {
    "bert": ("query", "value"),
    "roberta": ("query", "value"),
    "xlm-roberta": ("query", "value"),
    "electra": ("query", "value"),
    "distilbert": ("q_lin", "v_lin"),
    "t5": ("q", "v"),
    "mt5": ("q", "v"),
    "vit": ("q_proj", "v_proj"),
    "clip_vision_model": ("q_proj", "v_proj"),
    "bart": ("q_proj", "v_proj"),
    "clip-bart": ("q_proj", "v_proj"),
    "clip-t5": ("q", "v"),
    "albert": ("query", "value"),
    "deberta-v2": ("query_proj", "value_proj"),
    "longformer": ("query", "value"),
    "big_bird": ("query", "value"),
    "nystromformer": ("query", "value"),
    "llama": ("q_proj", "v_proj"),
    "opt": ("q_proj", "v_proj"),
    "wav2vec2": ("q_proj", "v_proj"),
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
    found = []
    for index, stack, layer in upper_layers(model, skip_layers):
        paths = dict(zip(("attention", "feed-forward"), OUTPUTS[kind], strict=True))
        if cross_attention and stack == "decoder":
            paths = {"attention": paths["attention"], "cross-attention": CROSS_OUTPUTS[kind], **paths}
        for sublayer, path in paths.items():
            if places in ("both", sublayer):
                found.append(Place(index, sublayer, _walk(layer, path), stack))
    return found


def upper_layers(model: Any, skip_layers: int = 0) -> list[tuple[int, str, nn.Module]]:
    """Return number, stack and module of each transformer layer but the first `skip_layers` of each stack, in order."""
    depth = body(model).config.num_hidden_layers
    numbered = [
        (number, "encoder", layer) if number < depth else (number - depth, "decoder", layer)
        for number, layer in enumerate(encoder_layers(model))
    ]
    return [entry for entry in numbered if entry[0] >= skip_layers]


def query_value(model: Any) -> list[tuple[nn.Module, nn.Linear, nn.Linear]]:
    """Return each transformer layer with its query and value projection, in order.

    Raises ConfigError for an architecture whose projections are not known here, or whose layers have more than one of each.
    """
    kind = body(model).config.model_type
    if kind not in QUERY_VALUE:
        raise ConfigError(
            f"the query and value of architecture '{kind}' are not known; known: {', '.join(QUERY_VALUE)}"
        )
    found = []
    for layer in encoder_layers(model):
        named = [(name.rpartition(".")[2], m) for name, m in layer.named_modules() if isinstance(m, nn.Linear)]
        pair = [[module for name, module in named if name == wanted] for wanted in QUERY_VALUE[kind]]
        if [len(modules) for modules in pair] != [1, 1]:
            raise ConfigError(
                f"a layer of architecture '{kind}' has not one query and one value but {[len(m) for m in pair]}"
            )
        found.append((layer, pair[0][0], pair[1][0]))
    return found


def _walk(layer: nn.Module, path: str) -> nn.Module:
    for step in path.split("."):
        layer = layer[int(step)] if step.lstrip("-").isdigit() else getattr(layer, step)
    return layer
