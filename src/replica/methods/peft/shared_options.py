"""Settings that several parameter-efficient methods share; read without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from replica.methods.registry import MethodConfig


class TrainedOptions(MethodConfig):
    """The parameters trained in addition to a method's own; all others are frozen."""

    layer_norms: bool = Field(True, description="train every layer norm of the model (62 x 768 weights in T5-base)")
    head: bool = Field(
        True,
        description="train the new head of an encoder (classifier, tagger, span, image); an output layer that was "
        "pretrained (T5, masked words) stays frozen either way",
    )
    pooler: bool = Field(False, description="train the dense layer that BERT puts before a classifier")
    output_layer: bool = Field(
        False, description="train a pretrained output layer as well (in T5 it is the word embedding, too)"
    )
    also: list[str] = Field([], description="globs over names of parameters that are trained as well")


class AdapterOptions(TrainedOptions):
    """Places and sizes of bottleneck adapters."""

    reduction: int = Field(
        32, ge=1, description="bottleneck = hidden size / reduction, rounded up to a multiple of n where there is an n"
    )
    bottleneck: int | None = Field(None, ge=1, description="width of the bottleneck; in place of `reduction`")
    places: Literal["both", "feed-forward", "attention"] = Field(
        "both",
        description="after the self-attention and the feed-forward sublayer of each layer, or after only one of them",
    )
    cross_attention: bool = Field(
        False, description="after the cross-attention of a decoder's layers too (with `places: both`)"
    )
    skip_layers: int = Field(0, ge=0, description="first layers of each stack that get no adapter")
    tasks: int = Field(1, ge=1, description="tasks that have adapters of their own; 1: one adapter, whatever the task")
    shared: Literal["none", "down", "up"] = Field("none", description="half of an adapter that all its tasks share")
    activation: str = Field("gelu_new", description="between the two layers of an adapter, as transformers names it")
    input: Literal["output", "normed"] = Field(
        "output",
        description="the first layer reads x, the sublayer's output, or (as Pfeiffer's adapter in adapter-transformers) the layer norm of "
        "the sum of x, after its dropout, and the residual; the adapter adds to x either way",
    )
    norm: bool = Field(False, description="a trained layer norm of the adapter's own before its first layer")
    dropout: float = Field(
        0.0, ge=0, lt=1, description="of the bottleneck's activations, before the adapter's second layer"
    )
    biases: bool = Field(True, description="the adapter's two layers have biases")


class StartPruningOptions(MethodConfig):
    """Which weights are taken away once, before training."""

    sparsity: float = Field(0.4, ge=0, lt=1, description="share of the matrices' weights that the masks take away")
    score: Literal["snip", "grasp", "synflow", "magnitude", "random"] = Field(
        "snip",
        description="pruned weights have the lowest |gradient * weight|, weight * (Hessian gradient), |weight * flow of ones through the "
        "adapter|, |weight|, or a random number",
    )
    examples: int = Field(1024, ge=1, description="training examples that snip and grasp look at")
    scope: Literal["global", "local"] = Field("global", description="rank all matrices together, or each by itself")
