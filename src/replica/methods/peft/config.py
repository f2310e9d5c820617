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


class Places(Trained):
    """Where bottleneck adapters stand and how wide they are."""

    reduction: int = Field(
        32, ge=1, description="bottleneck = hidden size / reduction, rounded up to a multiple of n where there is an n"
    )
    bottleneck: int | None = Field(None, ge=1, description="width of the bottleneck; in place of `reduction`")
    places: Literal["both", "feed-forward"] = Field(
        "both", description="after the self-attention and the feed-forward sublayer of each layer, or only the latter"
    )
    skip_layers: int = Field(0, ge=0, description="first layers of each stack that get no adapter")
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
    "sparse-adapter",
    version=1,
    implementation=f"{_PACKAGE}.sparse_adapters:SparseAdapters",
    changes={"structure"},
    persistent=True,
)
class SparseAdapterConfig(AdapterConfig):
    """SparseAdapter (He et al. 2022): the matrices W of adapters are pruned before training, W * M, and the rest is trained."""

    sparsity: float = Field(0.4, ge=0, lt=1, description="share of the matrices' weights that the masks take away")
    score: Literal["snip", "magnitude", "random"] = Field(
        "snip",
        description="what is pruned has the lowest |gradient * weight| of the first batch, |weight|, or a random number",
    )
    scope: Literal["global", "local"] = Field("global", description="rank all matrices together, or each by itself")
    initial_std: float = Field(0.02, ge=0, description="weights start as normal(0, this); biases at zero")


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
    layer_norms: bool = Field(False, description="train every layer norm as well")
    head: bool = Field(True, description="train the new head of an encoder as well")
    pooler: bool = Field(False, description="train the dense layer that BERT puts before a classifier")


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


@method(
    "ladder-side-tuning",
    version=1,
    implementation=f"{_PACKAGE}.ladder:LadderSideTuning",
    changes={"structure"},
    persistent=True,
)
class LadderSideTuningConfig(MethodConfig):
    """Ladder side-tuning (Sung et al. 2022): a narrow transformer beside the frozen backbone reads its layers and is trained.

    u_i = mu_i h_i + (1 - mu_i) Down_i(b_i), h_{i+1} = Block_i(u_i), with b_i the output of layer i of the backbone,
    mu_i = sigmoid(alpha_i / T) and h_0 = Down_0 of the embeddings. What the head reads is Up of the last h.
    """

    reduction: int = Field(
        8, ge=1, description="r: the widths of the model, its heads and feed-forwards are divided by it"
    )
    layers: list[int] = Field(
        [],
        description="layers of each stack, from 0, that have a side block and a down-projection; all when empty "
        "(T5-base in the paper: 1, 2, 3, 5, 6, 7, 9, 10, 11)",
    )
    temperature: float = Field(0.1, gt=0, description="T of the gates, whose alpha starts at 0")
    start: Literal["pruned", "random"] = Field(
        "pruned",
        description="side blocks start as a structural pruning of the backbone's by the squares of its weights, or at random",
    )
    head: bool = Field(True, description="train the new head of an encoder as well")
    pooler: bool = Field(False, description="train the dense layer that BERT puts before a classifier")
