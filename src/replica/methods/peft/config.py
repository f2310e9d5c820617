"""Configurations of the parameter-efficient methods; read without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from replica.methods.registry import MethodConfig, method

_PACKAGE = "replica.methods.peft"


class Trained(MethodConfig):
    """What is trained besides a method's own parameters; everything else is frozen."""

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


class Places(Trained):
    """Where bottleneck adapters stand and how wide they are."""

    reduction: int = Field(
        32, ge=1, description="bottleneck = hidden size / reduction, rounded up to a multiple of n where there is an n"
    )
    bottleneck: int | None = Field(None, ge=1, description="width of the bottleneck; in place of `reduction`")
    places: Literal["both", "feed-forward"] = Field(
        "both", description="after the self-attention and the feed-forward sublayer of each layer, or only the latter"
    )
    cross_attention: bool = Field(
        False, description="after the cross-attention of a decoder's layers too (with `places: both`)"
    )
    skip_layers: int = Field(0, ge=0, description="first layers of each stack that get no adapter")
    tasks: int = Field(1, ge=1, description="tasks that have adapters of their own; 1: one adapter, whatever the task")
    shared: Literal["none", "down", "up"] = Field("none", description="half of an adapter that all its tasks share")
    activation: str = Field("gelu_new", description="between the two layers of an adapter, as transformers names it")


@method(
    "compacter",
    version=1,
    implementation=f"{_PACKAGE}.adapters:BottleneckAdapters",
    changes={"structure"},
    persistent=True,
)
class CompacterConfig(Places):
    """Compacter (Karimi Mahabadi et al. 2021): H = sum_i A_i kron (s_i t_i^T), A shared by all adapters.

    `places: feed-forward` is Compacter++.
    """

    n: int = Field(4, ge=1, description="number of Kronecker products, and the side of the square matrices A_i")
    train_rule: bool = Field(True, description="train A, the slow weights")
    rule_std: float = Field(1e-4, ge=0, description="A starts as normal(0, this)")


@method(
    "phm-adapter",
    version=1,
    implementation=f"{_PACKAGE}.adapters:BottleneckAdapters",
    changes={"structure"},
    persistent=True,
)
class PHMAdapterConfig(Places):
    """Adapters of parameterized hypercomplex multiplications: H = sum_i A_i kron B_i, both own to each layer."""

    n: int = Field(12, ge=1, description="number of Kronecker products, and the side of the square matrices A_i")
    rule_std: float = Field(0.01, ge=0, description="A starts as normal(0, this)")


@method(
    "adapter",
    version=1,
    implementation=f"{_PACKAGE}.adapters:BottleneckAdapters",
    changes={"structure"},
    persistent=True,
)
class AdapterConfig(Places):
    """Bottleneck adapters (Houlsby et al. 2019); `places: feed-forward` is the placement of Pfeiffer et al. 2021."""

    initial_std: float = Field(0.01, ge=0, description="weights start as normal(0, this); biases at zero")


@method(
    "adapter-drop",
    version=1,
    implementation=f"{_PACKAGE}.adapters:BottleneckAdapters",
    changes={"structure"},
    persistent=True,
)
class AdapterDropConfig(AdapterConfig):
    """AdapterDrop (Rueckle et al. 2021): the first layers of each stack have no adapters."""

    skip_layers: int = Field(5, ge=0, description="first layers of each stack that get no adapter")


@method(
    "adapter-lowrank",
    version=1,
    implementation=f"{_PACKAGE}.adapters:BottleneckAdapters",
    changes={"structure"},
    persistent=True,
)
class AdapterLowRankConfig(Places):
    """Adapters whose two matrices are products of low-rank factors: W = W_left W_right."""

    rank: int = Field(1, ge=1, description="rank of the factors")


@method(
    "hyperformer",
    version=1,
    implementation=f"{_PACKAGE}.hypernetwork:Hyperformer",
    changes={"structure"},
    persistent=True,
)
class HyperformerConfig(Trained):
    """Hyperformer (Karimi Mahabadi et al. 2021): the weights of all adapters are made from embeddings of task and layer.

    Each stack has its own hypernetwork. Sizes that papers leave out are those of the published code.
    """

    tasks: int = Field(1, ge=1, description="tasks, each with an embedding")
    reduction: int = Field(32, ge=1, description="bottleneck = hidden size / reduction")
    cross_attention: bool = Field(False, description="after the cross-attention of a decoder's layers too")
    embedding: int = Field(512, ge=1, description="t: width of the embeddings of tasks and layers")
    hidden: int = Field(128, ge=1, description="e: width of the net that joins the two")
    projected: int = Field(64, ge=1, description="t': width of what the net gives to the generators of weights")
    initial_std: float = Field(0.01, ge=0, description="linear layers start as normal(0, this); biases at zero")
    activation: str = Field("gelu_new", description="between the two layers of an adapter, as transformers names it")


@method("bitfit", version=1, implementation=f"{_PACKAGE}.biases:BitFit", changes={"structure"}, persistent=True)
class BitFitConfig(MethodConfig):
    """BitFit (Ben Zaken et al. 2022): only biases are trained; layers without a bias get one that starts at zero.

    T5 has no biases. As Compacter's authors did, its linear layers, the layer norms inside its blocks (not the final
    ones) and its output layer get one: 280,960 in T5-base, 0.126 % of it.
    """

    head: bool = Field(True, description="train the weights of a new head of an encoder as well")


@method("layer-norm-tuning", version=1, implementation=f"{_PACKAGE}.biases:LayerNormTuning", changes={"structure"})
class LayerNormTuningConfig(Trained):
    """Only the layer norms (and a new head) are trained."""


@method("intrinsic-said", version=1, implementation=f"{_PACKAGE}.subspace:IntrinsicSAID", changes={"structure"})
class IntrinsicSAIDConfig(MethodConfig):
    """Structure-aware intrinsic dimension (Aghajanyan et al. 2021, eq. 3): theta = theta_0 + lambda_l P(theta_d)."""

    dimension: int = Field(20_000, ge=2, description="d: trained numbers, the layers' scales lambda among them")
    head: bool = Field(True, description="train the new head of an encoder plainly, outside the subspace")


@method("lora", version=1, implementation=f"{_PACKAGE}.library:LoRA", changes={"structure"})
class LoRAConfig(MethodConfig):
    """LoRA (Hu et al. 2022) by the peft library: W + alpha / r * B A, merged when training is done."""

    rank: int = Field(8, ge=1, description="r")
    alpha: float = Field(16, gt=0, description="the update is scaled by alpha / r")
    dropout: float = Field(0.0, ge=0, lt=1, description="on the input of A")
    targets: list[str] = Field(
        [], description="last parts of the names of the linear layers; the query and value projections when empty"
    )
    layer_norms: bool = Field(False, description="train every layer norm as well")
    head: bool = Field(True, description="train the new head of an encoder as well")
    pooler: bool = Field(False, description="train the dense layer that BERT puts before a classifier")
    also: list[str] = Field([], description="globs over names of parameters that are trained as well")


@method(
    "prompt-tuning",
    version=1,
    implementation=f"{_PACKAGE}.library:PromptTuning",
    changes={"structure"},
    persistent=True,
)
class PromptTuningConfig(MethodConfig):
    """Prompt tuning (Lester et al. 2021) with the prompt of the peft library before the encoder's input."""

    tokens: int = Field(100, ge=1, description="length of the prompt")
    init: Literal["vocabulary", "random"] = Field(
        "vocabulary", description="embeddings of words drawn by the seed, or normal(0, 1)"
    )
    hidden: int | None = Field(
        None, ge=1, description="width of a two-layer net that the prompt goes through; none when absent"
    )
    layer_norms: bool = Field(False, description="train every layer norm as well")
    head: bool = Field(True, description="train the new head of an encoder as well")
    pooler: bool = Field(False, description="train the dense layer that BERT puts before a classifier")
    also: list[str] = Field([], description="globs over names of parameters that are trained as well")


@method(
    "prefix-tuning",
    version=1,
    implementation=f"{_PACKAGE}.library:PrefixTuning",
    changes={"structure"},
    persistent=True,
)
class PrefixTuningConfig(MethodConfig):
    """Prefix tuning (Li and Liang 2021) with the prefix of the peft library, for encoders of BERT's kind."""

    tokens: int = Field(20, ge=1, description="keys and values that every attention layer gets besides its own")
    layer_norms: bool = Field(False, description="train every layer norm as well")
    head: bool = Field(True, description="train the new head of an encoder as well")
    pooler: bool = Field(False, description="train the dense layer that BERT puts before a classifier")
