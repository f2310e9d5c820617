"""The side network of ladder side-tuning: narrow blocks of the backbone's own kind, with down-projections and gates."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.masking_utils import create_bidirectional_mask

from replica.errors import ConfigError
from replica.models import body
from replica.models.vision_language_t5 import joint_bias


@dataclass(frozen=True)
class Shape:
    """Where an architecture keeps what a ladder needs.

    `stacks`: paths from the body to the modules whose output is replaced ("" is the body). `layers`, `norm`: paths from such a
    module to its list of layers and to the norm that closes it (none after layers that end in a norm). `biased`: a stack's first
    attention has a table of relative positions, whose biases all its layers share.
    """

    stacks: tuple[str, ...]
    layers: str
    norm: str | None = None
    rotary: bool = False
    biased: bool = False


_BERT = Shape(("",), "encoder.layer")
_T5 = Shape(("encoder", "decoder"), "block", "final_layer_norm", biased=True)
_BART = Shape(("encoder", "decoder"), "layers")
SHAPES = {
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "electra": _BERT,
    "t5": _T5,
    "mt5": _T5,
    "clip-t5": _T5,
    "bart": _BART,
    "clip-bart": _BART,
    "opt": Shape(("decoder",), "layers", "final_layer_norm"),
    "llama": Shape(("",), "layers", "norm", rotary=True),
}


def shape_of(model: Any) -> Shape:
    """Return the model's shape; raises ConfigError for an architecture that no ladder is known for."""
    config = body(model).config
    if config.model_type not in SHAPES:
        raise ConfigError(
            f"method 'ladder-side-tuning': architecture '{config.model_type}' is not supported; "
            f"supported: {', '.join(SHAPES)}"
        )
    if getattr(config, "word_embed_proj_dim", config.hidden_size) != config.hidden_size:
        raise ConfigError(
            f"method 'ladder-side-tuning': word embeddings of width {config.word_embed_proj_dim} in a model of width "
            f"{config.hidden_size} are not supported"
        )
    return SHAPES[config.model_type]


def stacks_of(model: Any) -> list[tuple[nn.Module, nn.ModuleList]]:
    """Return the modules whose output a ladder replaces, each with its list of layers (of T5 and BART: encoder, decoder)."""
    shape, inner = shape_of(model), body(model)
    found = [inner.get_submodule(path) for path in shape.stacks]
    return [(stack, stack.get_submodule(shape.layers)) for stack in found]


def side_config(config: Any, reduction: int, layers: int) -> Any:
    """Return a copy of a stack's configuration whose widths are divided by r, with as many heads and `layers` layers.

    Raises ConfigError naming the width that r does not divide, or that leaves no whole number for every head.
    """
    changed = copy.deepcopy(config)
    if hasattr(config, "d_kv"):
        widths = {"d_model": config.d_model, "d_ff": config.d_ff, "d_kv": config.d_kv}
    elif hasattr(config, "encoder_ffn_dim"):
        widths = {name: getattr(config, name) for name in ("d_model", "encoder_ffn_dim", "decoder_ffn_dim")}
    elif hasattr(config, "ffn_dim"):
        widths = {"hidden_size": config.hidden_size, "ffn_dim": config.ffn_dim}
    else:
        widths = {"hidden_size": config.hidden_size, "intermediate_size": config.intermediate_size}
        if getattr(config, "head_dim", None) is not None:
            widths["head_dim"] = config.head_dim
    for name, width in widths.items():
        if width % reduction:
            raise ConfigError(f"method 'ladder-side-tuning': reduction {reduction} does not divide {name} {width}")
        setattr(changed, name, width // reduction)
    heads = [] if "d_kv" in widths else [heads_of(config, decoder) for decoder in (False, True)]
    for number in heads:
        if changed.hidden_size % number:
            raise ConfigError(
                f"method 'ladder-side-tuning': reduction {reduction} leaves width {changed.hidden_size} for "
                f"{number} heads, which they do not divide; choose another reduction"
            )
    for name in ("vocab_size", "max_position_embeddings", "type_vocab_size", "embedding_size", "word_embed_proj_dim"):
        if hasattr(changed, name):
            setattr(changed, name, changed.hidden_size if name == "word_embed_proj_dim" else 2)
    if getattr(changed, "pad_token_id", None) is not None:
        changed.pad_token_id = 0
    for name in ("num_hidden_layers", "decoder_layers"):
        if name == "num_hidden_layers" or hasattr(changed, name):
            setattr(changed, name, layers)
    return changed


def heads_of(config: Any, decoder: bool) -> int:
    """Return how many heads the layers of a model's decoder have, or those of its encoder or only stack."""
    own = getattr(config, "decoder_attention_heads", None) if decoder else None
    return config.num_attention_heads if own is None else own


class Rung(nn.Module):
    """One kept layer of a ladder: the down-projection of the backbone's layer, and the side block."""

    def __init__(self, down: nn.Linear, block: nn.Module):
        super().__init__()
        self.down, self.block = down, block


class SideStack(nn.Module):
    """The side network of one stack (equations in `LadderSideTuningConfig`); it has no embeddings of its own.

    `blocks[j]` belongs to layer `kept[j]`. `gates` holds an alpha for every layer of the stack, those that are dropped included.
    `up` is there where the stack's output goes to a head.

    Regions of images, which come after the words, are the side network's alone: the backbone reads words, and Down_i(b_i) counts as
    zero at a region, as in the released code.
    """

    def __init__(
        self, stack: nn.Module, shape: Shape, kept: list[int], depth: int, config: Any, options: Any, up: bool
    ):
        super().__init__()
        width, narrow = stack.config.hidden_size, config.hidden_size
        source = type(stack)(config)
        blocks = source.get_submodule(shape.layers)
        self.kept, self.temperature, self.biased = list(kept), options.temperature, shape.biased
        self.config = stack.config
        self.first = nn.Linear(width, narrow)
        self.gates = nn.Parameter(torch.zeros(depth))
        self.blocks = nn.ModuleList(Rung(nn.Linear(width, narrow), block) for block in blocks)
        self.norm = None if shape.norm is None else source.get_submodule(shape.norm)
        self.rotary = source.rotary_emb if shape.rotary else None
        self.dropout = nn.Dropout(_dropout(config))
        self.up = nn.Linear(narrow, width) if up else None
        self.train(stack.training)

    def forward(
        self,
        first: torch.Tensor,
        taps: dict[int, torch.Tensor],
        given: dict[str, Any] | None = None,
        memory: torch.Tensor | None = None,
        memory_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the side state after the last block, normed and dropped out, and through `up` where there is one.

        `first` (batch, length, width) is the input of the backbone's first layer and `taps` (batch, words, width) the outputs of its
        kept layers; without images words are all there is. `given` is what that first layer was called with besides, by name: masks,
        positions. `memory` (batch, source length, width / r) is the side encoder's output, which the side decoder attends to, as far
        as `memory_mask` (batch, source length) lets it.
        """
        hidden = self.first(first)
        length = hidden.shape[1]
        given = {key: value for key, value in (given or {}).items() if key not in ("past_key_values", "use_cache")}
        if self.rotary is not None:
            given["position_embeddings"] = self.rotary(hidden, position_ids=given["position_ids"])
        if memory is not None:
            given["encoder_hidden_states"] = memory
            given["encoder_attention_mask"] = create_bidirectional_mask(
                config=self.config, inputs_embeds=hidden, attention_mask=memory_mask, encoder_hidden_states=memory
            )
        if self.biased:  # the first block's table serves all
            attention, words = self.blocks[0].block.layer[0].SelfAttention, taps[self.kept[0]].shape[1]
            given["position_bias"] = joint_bias(attention, words, length)
        for index, rung in zip(self.kept, self.blocks, strict=True):
            share = torch.sigmoid(self.gates[index] / self.temperature)
            down = rung.down(taps[index])
            if down.shape[1] < length:
                down = nn.functional.pad(down, (0, 0, 0, length - down.shape[1]))
            hidden = share * hidden + (1 - share) * down
            output = rung.block(hidden, **given)
            hidden = output[0] if isinstance(output, tuple) else output
        if self.norm is not None:
            hidden = self.norm(hidden)
        hidden = self.dropout(hidden)
        return hidden if self.up is None else self.up(hidden)


def _dropout(config: Any) -> float:
    for name in ("dropout_rate", "hidden_dropout_prob", "dropout"):
        if hasattr(config, name):
            return float(getattr(config, name))
    return 0.0
