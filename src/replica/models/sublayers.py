"""Transformer layers and sublayers of a model, by the row of its architecture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from replica.errors import ConfigError
from replica.models.architectures import Architecture, body, require

if TYPE_CHECKING:
    from torch import nn


def encoder_layers(model: nn.Module) -> list[nn.Module]:
    """Return the transformer layers in order (for T5 and BART the encoder's, then the decoder's).

    Raises ConfigError for an architecture whose layers are unknown.
    """
    inner = body(model)
    return [layer for stack in require(model, "stacks").stacks for layer in inner.get_submodule(stack.path)]


def upper_layers(model: Any, skip_layers: int = 0) -> list[tuple[int, str, nn.Module]]:
    """Return number, stack and module of each transformer layer but the first `skip_layers` of each stack, in order."""
    depth = body(model).config.num_hidden_layers
    numbered = [
        (number, "encoder", layer) if number < depth else (number - depth, "decoder", layer)
        for number, layer in enumerate(encoder_layers(model))
    ]
    return [entry for entry in numbered if entry[0] >= skip_layers]


def part_of(layer: Any, path: str) -> Any:
    """Return the module at a row's path in a transformer layer."""
    for step in path.split("."):
        layer = layer[int(step)] if step.lstrip("-").isdigit() else getattr(layer, step)
    return layer


def ups(layer: Any, row: Architecture) -> list[str]:
    """Return the paths of a layer's feed-forward input layers: one, or the activated and the other of a gated network."""
    return [path for path in row.feed_forward.up if _has(layer, path)]


def _has(layer: Any, path: str) -> bool:
    owner, _, name = path.rpartition(".")
    return hasattr(part_of(layer, owner) if owner else layer, name)


@dataclass(frozen=True)
class Place:
    """The output layer of a sublayer: of layer `index` (from 0) of its `stack` (encoder or decoder).

    `sublayer` is attention, cross-attention or feed-forward; `layer` is the layer, and `norm` the path of the sublayer's norm in it, empty
    where that is not known.
    """

    index: int
    sublayer: str
    module: nn.Module
    stack: str
    layer: nn.Module
    norm: str


def sublayer_outputs(
    model: Any, places: str = "both", skip_layers: int = 0, cross_attention: bool = False
) -> list[Place]:
    """Return the output layers of the sublayers, in order; dropout and the residual sum follow them.

    Of an encoder-decoder model both stacks are counted from 0; cross-attention has a place only with `cross_attention`, and only where
    `places` is `both`. Raises ConfigError for an architecture whose sublayers are unknown, or that has no cross-attention to adapt.
    """
    row = require(model, "attention.output", "feed_forward.down", "linear")
    if cross_attention:
        require(model, "cross_attention.output")
    outputs = []
    for index, stack, layer in upper_layers(model, skip_layers):
        paths = {"attention": (row.attention.output, row.attention.norm)}
        if cross_attention and stack == "decoder":
            paths["cross-attention"] = (row.cross_attention.output, row.cross_attention.norm)
        paths["feed-forward"] = (row.feed_forward.down, row.feed_forward.norm)
        outputs += [
            Place(index, sublayer, part_of(layer, path), stack, layer, norm)
            for sublayer, (path, norm) in paths.items()
            if places in ("both", sublayer)
        ]
    return outputs


def query_value(model: Any) -> list[tuple[nn.Module, nn.Linear, nn.Linear]]:
    """Return each transformer layer with its query and value projection, in order.

    Raises ConfigError for an architecture whose projections are unknown, or whose layers have more than one of each.
    """
    row = require(model, "attention.query", "attention.value", "linear")
    paths = (row.attention.query, row.attention.value)
    layers = encoder_layers(model)
    for layer in layers:
        names = [name.rpartition(".")[2] for name, _ in layer.named_modules()]
        counts = [names.count(path.rpartition(".")[2]) for path in paths]
        if counts != [1, 1]:
            raise ConfigError(f"a layer of architecture '{row.name}' has not one query and one value but {counts}")
    return [(layer, *(part_of(layer, path) for path in paths)) for layer in layers]


#: Parts of a path that do not tell one place in a layer from another.
_SILENT = ("self", "dense", "layer", "weight")
#: Place of a module outside the layers.
OUTSIDE = "other"


def place_in_layers(model: nn.Module, name: str) -> tuple[str, str]:
    """Return the number of the layer that holds a module or parameter, and its path there: `("3", "attention-output")`.

    `name` is its dotted path in the model; layers are numbered as in `encoder_layers`, and `other` is outside all layers. Neither
    word has dots, so that they can be parts of a reported number's name.
    """
    inner = body(model)
    paths = {id(module): path for path, module in model.named_modules()}
    for number, layer in enumerate(encoder_layers(model)):
        start = f"{paths[id(layer)]}."
        if name.startswith(start):
            return str(number), _short(name.removeprefix(start))
    start = paths.get(id(inner), "")
    return OUTSIDE, _short(name.removeprefix(f"{start}.") if start else name)


def _short(path: str) -> str:
    parts = [part for part in path.split(".") if part not in _SILENT]
    return "-".join(parts) or path.replace(".", "-")
