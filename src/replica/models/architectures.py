"""Architectures, one row each: where a model keeps its layers, their attentions, feed-forward networks and norms.

A row is found by the `model_type` of a transformers configuration. Paths lead from a transformer layer to a module, unless a field's
description gives another start; a number in a path is an index of a list, negative from the end. An empty field is unknown or absent:
`require` writes the refusal of a method that needs it. Imports no torch, so that plans can read the rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from replica.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Stack:
    """A stack of transformer layers: an encoder or a decoder.

    Attributes:
        module: Path from the body to the module that runs the stack; empty for the body itself.
        layers: Path from that module to its list of layers.
        norm: Path from that module to the norm after the last layer; empty for layers that end in a norm.
    """

    module: str
    layers: str
    norm: str = ""

    @property
    def path(self) -> str:
        """Path from the body to the list of layers."""
        return f"{self.module}.{self.layers}" if self.module else self.layers


@dataclass(frozen=True)
class Attention:
    """An attention: its module, its four linear layers, its norm, and its module's attributes for heads and their common width."""

    module: str = ""
    query: str = ""
    key: str = ""
    value: str = ""
    output: str = ""
    norm: str = ""
    sizes: tuple[str, ...] = ()


@dataclass(frozen=True)
class FeedForward:
    """A feed-forward network: its input layers (two if gated), activation, output layer, dropout after it, and norm.

    `up` holds the paths of every form that the architecture has; a layer has those of its own form.
    """

    up: tuple[str, ...] = ()
    activation: str = ""
    down: str = ""
    dropout: str = ""
    norm: str = ""


@dataclass(frozen=True)
class Architecture:
    """Facts about an architecture.

    Attributes:
        name: `model_type` of its configuration.
        family: The architecture whose layers it shares, module by module; its own name otherwise.
        stacks: The encoder or the only stack, then the decoder.
        attention: Self-attention. Of GPT-2 the linear layers that `fused.to_linear` makes.
        cross_attention: The attention to the encoder in a decoder's layer.
        feed_forward: The feed-forward network.
        norm_first: Whether norms come before their sublayers, or the configuration's field that tells.
        reads: words, images or sound.
        linear: Whether the layers' matrices are linear layers; GPT-2's are transposed and fused until `fused.to_linear`.
        shared_bias: Whether the first layer's table of relative positions serves all layers of its stack.
        rotary: Whether queries and keys are rotated by their positions.
        dropout: Whether models are trained with dropout by default.
        mask: Whether the model takes a mask of padding.
        padded_positions: Whether the positions of words are counted from the padding token's id + 1.
        note: Assumptions of the meters when they measure it.
    """

    name: str
    family: str = ""
    stacks: tuple[Stack, ...] = ()
    attention: Attention | None = None
    cross_attention: Attention | None = None
    feed_forward: FeedForward | None = None
    norm_first: bool | str = False
    reads: str = "words"
    linear: bool = True
    shared_bias: bool = False
    rotary: bool = False
    dropout: bool = True
    mask: bool = True
    padded_positions: bool = False
    note: str = ""

    def __post_init__(self):
        if not self.family:
            object.__setattr__(self, "family", self.name)

    @property
    def two_stacks(self) -> bool:
        """Whether it has an encoder and a decoder."""
        return len(self.stacks) == 2

    def norms_first(self, config: Any) -> bool:
        """Return whether norms come before their sublayers in a model of this configuration."""
        return getattr(config, self.norm_first) if isinstance(self.norm_first, str) else self.norm_first

    def get(self, part: str) -> Any:
        """Return a field by its dotted name (`attention.query`), None where it or its owner is empty."""
        value: Any = self
        for name in part.split("."):
            value = getattr(value, name) if value else None
        return value or None


def _attention(module: str, names: str = "query key value", output: str = "", norm: str = "", **more: Any) -> Attention:
    """Return an attention whose query, key and value (and output, if it is a fourth name) are in its module."""
    paths = [f"{module}.{name}" for name in names.split()]
    return Attention(module, *paths, *([output] if output else []), norm=norm, **more)


_BERT = Architecture(
    "bert",
    stacks=(Stack("", "encoder.layer"),),
    attention=_attention(
        "attention.self",
        output="attention.output.dense",
        norm="attention.output.LayerNorm",
        sizes=("num_attention_heads", "all_head_size"),
    ),
    feed_forward=FeedForward(
        up=("intermediate.dense",),
        activation="intermediate.intermediate_act_fn",
        down="output.dense",
        dropout="output.dropout",
        norm="output.LayerNorm",
    ),
)
_T5 = Architecture(
    "t5",
    stacks=(Stack("encoder", "block", "final_layer_norm"), Stack("decoder", "block", "final_layer_norm")),
    attention=_attention("layer.0.SelfAttention", "q k v o", norm="layer.0.layer_norm"),
    cross_attention=_attention("layer.1.EncDecAttention", "q k v o", norm="layer.1.layer_norm"),
    feed_forward=FeedForward(
        up=tuple(f"layer.-1.DenseReluDense.{name}" for name in ("wi", "wi_0", "wi_1")),
        activation="layer.-1.DenseReluDense.act",
        down="layer.-1.DenseReluDense.wo",
        norm="layer.-1.layer_norm",
    ),
    norm_first=True,
    shared_bias=True,
)
_PROJECTIONS = "q_proj k_proj v_proj out_proj"
_OPT = Architecture(
    "opt",
    stacks=(Stack("decoder", "layers", "final_layer_norm"),),
    attention=_attention("self_attn", _PROJECTIONS, norm="self_attn_layer_norm"),
    feed_forward=FeedForward(up=("fc1",), activation="activation_fn", down="fc2", norm="final_layer_norm"),
    norm_first="do_layer_norm_before",
)
_BART = replace(
    _OPT,
    name="bart",
    family="bart",
    stacks=(Stack("encoder", "layers"), Stack("decoder", "layers")),
    cross_attention=_attention("encoder_attn", _PROJECTIONS, norm="encoder_attn_layer_norm"),
    norm_first=False,
)
#: Parts of BERT's layers that later encoders kept.
_BERT_LIKE = replace(
    _BERT,
    attention=_attention("attention.self", output="attention.output.dense"),
    feed_forward=FeedForward(("intermediate.dense",), "intermediate.intermediate_act_fn", "output.dense"),
)
_VIT = Architecture(
    "vit",
    stacks=(Stack("", "layers"),),
    attention=_attention("attention", "q_proj k_proj v_proj o_proj"),
    feed_forward=FeedForward(("mlp.fc1",), "mlp.activation_fn", "mlp.fc2"),
    reads="images",
    dropout=False,
)


def _image_layers(name: str, layers: str = "") -> Architecture:
    """Return the row of a network of images without attention."""
    return Architecture(name, stacks=(Stack("", layers),) if layers else (), reads="images")


ARCHITECTURES: dict[str, Architecture] = {
    row.name: row
    for row in (
        _BERT,
        replace(_BERT, name="roberta", padded_positions=True),
        replace(_BERT, name="xlm-roberta", padded_positions=True),
        replace(_BERT, name="camembert", padded_positions=True),
        replace(_BERT, name="electra"),
        replace(
            _BERT_LIKE,
            name="longformer",
            family="longformer",
            padded_positions=True,
            note="one global token an example, as the classifier sets",
        ),
        replace(_BERT_LIKE, name="big_bird", family="big_bird"),
        replace(_BERT_LIKE, name="nystromformer", family="nystromformer"),
        replace(
            _BERT_LIKE,
            name="deberta",
            family="deberta",
            attention=Attention("attention.self", output="attention.output.dense"),
        ),
        replace(
            _BERT_LIKE,
            name="deberta-v2",
            family="deberta-v2",
            attention=_attention("attention.self", "query_proj key_proj value_proj", output="attention.output.dense"),
        ),
        Architecture(
            "albert",
            stacks=(Stack("", "encoder.albert_layer_groups"),),
            attention=_attention("albert_layers.0.attention", "query key value dense"),
            feed_forward=FeedForward(
                ("albert_layers.0.ffn",), "albert_layers.0.activation", "albert_layers.0.ffn_output"
            ),
            note="one set of weights is run in every layer: counted and stored once, computed each time",
        ),
        Architecture(
            "distilbert",
            stacks=(Stack("", "transformer.layer"),),
            attention=_attention("attention", "q_lin k_lin v_lin out_lin"),
            feed_forward=FeedForward(("ffn.lin1",), "ffn.activation", "ffn.lin2"),
        ),
        Architecture("m2-bert", stacks=(Stack("", "encoder.layer"),)),
        Architecture(
            "gpt2",
            stacks=(Stack("", "h"),),
            attention=Attention(
                "attn",
                *(f"attn.c_attn.{name}" for name in ("query", "key", "value")),
                output="attn.c_proj",
                sizes=("num_heads", "split_size"),
            ),
            feed_forward=FeedForward(("mlp.c_fc",), "mlp.act", "mlp.c_proj"),
            linear=False,
        ),
        _OPT,
        Architecture(
            "llama",
            stacks=(Stack("", "layers", "norm"),),
            attention=_attention("self_attn", "q_proj k_proj v_proj o_proj", norm="input_layernorm"),
            feed_forward=FeedForward(
                ("mlp.gate_proj", "mlp.up_proj"), "mlp.act_fn", "mlp.down_proj", norm="post_attention_layernorm"
            ),
            norm_first=True,
            rotary=True,
            dropout=False,
        ),
        Architecture(
            "mamba",
            stacks=(Stack("", "layers"),),
            mask=False,
            note="the scan runs step by step, as transformers does without Mamba's own CUDA kernels",
        ),
        _T5,
        replace(_T5, name="mt5"),
        replace(_T5, name="clip-t5"),
        _BART,
        replace(_BART, name="clip-bart"),
        _VIT,
        replace(
            _VIT,
            name="clip_vision_model",
            family="clip_vision_model",
            stacks=(Stack("", "encoder.layers"),),
            attention=_attention("self_attn", _PROJECTIONS),
        ),
        Architecture(
            "wav2vec2",
            stacks=(Stack("", "encoder.layers"),),
            attention=_attention("attention", _PROJECTIONS),
            feed_forward=FeedForward(
                ("feed_forward.intermediate_dense",), "feed_forward.intermediate_act_fn", "feed_forward.output_dense"
            ),
            reads="sound",
            note="length counts frames of 20 ms; no layer drop, no SpecAugment",
        ),
        *(_image_layers(name, "layers") for name in ("vim", "vgg", "lenet", "wideresnet", "residual")),
        *(_image_layers(name) for name in ("resnet", "regnet", "mobilenet_v1", "swin")),
    )
}

#: How a message names the parts that a method may need.
_PARTS = {
    "stacks": "list of transformer layers",
    "attention.module": "attention module",
    "attention.query": "query projection",
    "attention.key": "key projection",
    "attention.value": "value projection",
    "attention.output": "attention output layer",
    "attention.norm": "attention norm",
    "attention.sizes": "attention whose heads can be removed",
    "cross_attention.output": "cross-attention output layer",
    "feed_forward.up": "feed-forward input layer",
    "feed_forward.activation": "feed-forward activation",
    "feed_forward.down": "feed-forward output layer",
    "feed_forward.norm": "feed-forward norm",
    "linear": "linear layers of its own",
}


def architecture(name: str) -> Architecture:
    """Return the row of a `model_type`; of one that has none a row without parts."""
    return ARCHITECTURES.get(name) or Architecture(name)


def architecture_of(model: Any) -> Architecture:
    """Return the row of a model's architecture."""
    return architecture(body(model).config.model_type)


def require(model: Any, *parts: str, like: str = "", copies: bool = True, method: str = "") -> Architecture:
    """Return the row of a model's architecture, which has these parts (`attention.query`, as in `Architecture.get`).

    `like` names families, separated by spaces: the layers must be those of one of them; without `copies` the architecture itself must
    be one of them. `method` is the registered name that the message begins with.
    Raises ConfigError naming the architecture, the missing part, and the architectures that have it.
    """
    row = architecture_of(model)
    who = f"method '{method}': " if method else ""
    families = like.split()
    if like and (row.family if copies else row.name) not in families:
        rows = ARCHITECTURES.values()
        supported = [other.name for other in rows if (other.family if copies else other.name) in families]
        raise ConfigError(f"{who}architecture '{row.name}' is not supported; supported: {', '.join(supported)}")
    for part in parts:
        if row.get(part) is None:
            known = [other.name for other in ARCHITECTURES.values() if all(other.get(one) for one in parts)]
            raise ConfigError(f"{who}architecture '{row.name}' has no known {_PARTS[part]}; known: {', '.join(known)}")
    return row


def body(model: nn.Module) -> nn.Module:
    """Return the backbone without its head; of a model that peft has wrapped too.

    T5 with a language-model head is its own body: its encoder and decoder are attributes of the model with the head.
    """
    if hasattr(model, "get_base_model"):
        model = model.get_base_model()
    return model.base_model


def position_limit(config: Any) -> int | None:
    """Return how many positions of words a configuration's embeddings hold; None where they do not limit the length."""
    limit = getattr(config, "max_position_embeddings", None)
    if limit is not None and architecture(config.model_type).padded_positions:
        limit -= (config.pad_token_id or 0) + 1
    return limit


def registered_positions(name: str, config: Mapping[str, Any]) -> SimpleNamespace:
    """Return what `position_limit` reads of a registered configuration, without transformers; its defaults are not known here."""
    row = architecture(name)
    limit = config.get("max_position_embeddings") or (None if row.shared_bias else config.get("n_positions"))
    padding = config.get("pad_token_id", 1 if row.padded_positions else None)
    return SimpleNamespace(model_type=name, max_position_embeddings=limit, pad_token_id=padding)


def check_length(config: Any, length: int) -> None:
    """Raise ConfigError where a row of `length` tokens has more positions than a configuration's embeddings."""
    limit = position_limit(config)
    if limit is not None and length > limit:
        raise ConfigError(f"length {length} is beyond the {limit} positions of this {config.model_type} model")
