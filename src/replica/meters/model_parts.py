"""Which part of a transformer a parameter belongs to: embeddings, layers, norms, pooler or head."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd

from replica.errors import ConfigError, nearest
from replica.meters.options import PARTS

EMBEDDINGS = PARTS[:4]
LAYERS = PARTS[4:8]

_STACKS = {"layer", "layers", "block", "blocks", "h", "albert_layer_groups"}
_POSITIONS = {"wpe", "rel_embeddings", "pos_conv_embed"}
#: Modules that turn words, patches, pixels or samples into the first layer's input.
EMBEDDING_MODULES = _POSITIONS | {
    "embeddings",
    "shared",
    "embed_tokens",
    "embed_positions",
    "layernorm_embedding",
    "wte",
    "word_embeddings",
    "position_embeddings",
    "embeddings_project",
    "embedding_hidden_mapping_in",
    "embedder",
    "feature_extractor",
    "feature_projection",
    "masked_spec_embed",
    "visual",
}


@dataclass(frozen=True)
class Located:
    """One parameter: its first name, the tensor, the module that holds it, and its part."""

    name: str
    parameter: nn.Parameter
    module: nn.Module
    part: str


def is_norm(module: nn.Module) -> bool:
    """Return whether a module normalises (LayerNorm, T5LayerNorm, RMSNorm, BatchNorm …), by its class's name."""
    return "norm" in type(module).__name__.lower()


def layer_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Return the encoder and decoder layers by name: the children of the outermost stacks (lists named layer, block, …).

    ResNet's blocks are its layers, VGG's and LeNet's convolutions and hidden linear layers theirs; ALBERT's shared group is one.
    """
    stacks: list[str] = []
    layers: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        if not isinstance(module, (nn.ModuleList, nn.Sequential)) or name.rpartition(".")[2] not in _STACKS:
            continue
        if any(name.startswith(f"{stack}.") for stack in stacks):
            continue
        stacks.append(name)
        layers.update({f"{name}.{child}": layer for child, layer in module.named_children()})
    return layers


def locate(model: nn.Module) -> Iterator[Located]:
    """Yield every parameter once (a shared tensor under its first name) with its part."""
    layers = tuple(f"{name}." for name in layer_modules(model))
    words = _word_embeddings(model)
    modules = dict(model.named_modules())
    for name, parameter in model.named_parameters():
        module = modules[name.rpartition(".")[0]]
        yield Located(name, parameter, module, _part(name, parameter, module, layers, words))


def matching(values: Mapping[str, Any], located: Located) -> Any:
    """Return the value whose key (a part's name or a glob over parameter names) fits; the last that fits wins, else None."""
    fitting = None
    for pattern, value in values.items():
        if pattern == located.part or fnmatch.fnmatchcase(located.name, pattern):
            fitting = value
    return fitting


def check_patterns(values: Mapping[str, Any], located: list[Located], where: str) -> None:
    """Raise ConfigError for a key that is neither a part nor fits any parameter: a slip would silently change nothing."""
    for pattern in values:
        if pattern in PARTS or any(fnmatch.fnmatchcase(item.name, pattern) for item in located):
            continue
        raise ConfigError(f"{where}: '{pattern}' is no part and fits no parameter{nearest(pattern, PARTS)}")


def _word_embeddings(model: nn.Module) -> nn.Parameter | None:
    try:
        embeddings = model.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        return None
    weight = getattr(embeddings, "weight", None)
    return weight if isinstance(embeddings, nn.Embedding) else _first_matrix(embeddings, weight)


def _first_matrix(embeddings: nn.Module | None, weight: Any) -> nn.Parameter | None:
    """Return the word matrix of a module that a method put in place of the embedding (not an image's patch projection)."""
    name = type(embeddings).__name__.lower()
    return weight if isinstance(weight, nn.Parameter) and weight.dim() == 2 and "embed" in name else None


def _part(name: str, parameter: nn.Parameter, module: nn.Module, layers: tuple[str, ...], words: Any) -> str:
    steps = name.split(".")
    if parameter is words:
        return "word_embeddings"
    if name.startswith(layers):
        if is_norm(module):
            return "layer_norms"
        if steps[-1] in {"bias", "q_bias", "v_bias"}:
            return "layer_biases"
        return "layer_linears" if _is_matrix(steps[-1], parameter, module) else "layer_other"
    if "pooler" in steps:
        return "pooler"
    if EMBEDDING_MODULES & set(steps):
        if is_norm(module):
            return "embedding_norms"
        position = any("position" in step or step in _POSITIONS for step in steps)
        return "position_embeddings" if position else "other_embeddings"
    return "final_norms" if is_norm(module) and _is_body(steps) else "head"


def _is_matrix(name: str, parameter: nn.Parameter, module: nn.Module) -> bool:
    """Return whether a parameter of a layer is a matrix of weights: of a linear layer, or of a convolution that is not depthwise.

    Mamba's state matrix A has two dimensions but is not multiplied with as a matrix.
    """
    if isinstance(module, _ConvNd):
        return module.groups == 1
    return parameter.dim() == 2 and not isinstance(module, nn.Embedding) and name != "A_log"


def _is_body(steps: list[str]) -> bool:
    """Return whether a norm outside the layers closes a stack (T5's and ViT's last norm) and is not inside a head (BERT's `cls`)."""
    heads = {"cls", "lm_head", "classifier", "predictions", "generator_predictions", "vocab_layer_norm"}
    return not heads & set(steps)
