"""Configurations of the parameter-efficient methods; read without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from replica.methods.peft import beside_config  # noqa: F401 - registers its methods
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
    norm: bool = Field(False, description="a trained layer norm of the adapter's own before its first layer")
    biases: bool = Field(True, description="the adapter's two layers have biases")


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
    own_rules: bool = Field(
        False, description="every layer of an adapter has an A of its own, in place of the one that all share"
    )
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


class StartPruning(MethodConfig):
    """Which weights are taken away once, before training."""

    sparsity: float = Field(0.4, ge=0, lt=1, description="share of the matrices' weights that the masks take away")
    score: Literal["snip", "grasp", "synflow", "magnitude", "random"] = Field(
        "snip",
        description="what is pruned has the lowest |gradient * weight|, weight * (Hessian gradient), |weight * flow of ones through the "
        "adapter|, |weight|, or a random number",
    )
    examples: int = Field(1024, ge=1, description="training examples that snip and grasp look at")
    scope: Literal["global", "local"] = Field("global", description="rank all matrices together, or each by itself")


@method(
    "sparse-adapter",
    version=2,
    implementation=f"{_PACKAGE}.sparse_adapters:SparseAdapters",
    changes={"structure"},
    persistent=True,
)
class SparseAdapterConfig(AdapterConfig, StartPruning):
    """SparseAdapter (He et al. 2022): the matrices W of adapters are pruned before training, W * M, and the rest is trained.

    Large-Sparse is a bottleneck k times as wide with `sparsity` 1 - 1/k: as many weights stay.
    """

    initial_std: float = Field(0.02, ge=0, description="weights start as normal(0, this); biases at zero")


@method(
    "sparse-modules",
    version=1,
    implementation=f"{_PACKAGE}.sparse_adapters:SparseModules",
    changes={"structure"},
)
class SparseModulesConfig(StartPruning):
    """SparseAdapter's pruning for any module: the matrices that are trained, but for a new head's, are pruned before training.

    Put it after the method that says what is trained (`lora`, `prefix-tuning`, `adapter`). A matrix that starts at zero has no scores:
    LoRA needs an `initial_std`.
    """


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


@method("freeze", version=1, implementation=f"{_PACKAGE}.biases:Freeze", changes={"structure"})
class FreezeConfig(MethodConfig):
    """Parts of the model stay as they are (CLIP's encoder of images beside a BART that is trained); the rest is trained as it was."""

    names: list[str] = Field(min_length=1, description="globs over names of parameters that are not trained")


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
    skip_layers: int = Field(0, ge=0, description="first layers of each stack that are left as they are")
    initial_std: float | None = Field(
        None, gt=0, description="A and B both start as normal(0, this); absent: as peft starts them, B at zero"
    )
    layer_norms: bool = Field(False, description="train every layer norm as well")
    head: bool = Field(True, description="train the new head of an encoder as well")
    pooler: bool = Field(False, description="train the dense layer that BERT puts before a classifier")
    also: list[str] = Field([], description="globs over names of parameters that are trained as well")


@method("lora-top", version=1, implementation=f"{_PACKAGE}.library:LoRA", changes={"structure"})
class LoRATopConfig(LoRAConfig):
    """LoRA in the upper layers alone, as `adapter-drop` is of adapters: what lies below them needs no gradient."""

    skip_layers: int = Field(5, ge=0, description="first layers of each stack that are left as they are")


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


@method("fact", version=1, implementation=f"{_PACKAGE}.tensors:FacT", changes={"structure"})
class FacTConfig(MethodConfig):
    """Factor-Tuning (Jie and Deng 2023): all d x d matrices of the layers change by s U core_j V, U and V shared.

    `tensor-train` is FacT-TT (a core of its own for each matrix), `tucker` FacT-TK (cores mixed from one shared tensor).
    """

    form: Literal["tensor-train", "tucker"] = Field(
        "tensor-train", description="how the tensor of changes is factorised"
    )
    rank: int = Field(16, ge=1, description="r, the same on every side of the factorisation")
    scale: float = Field(1.0, gt=0, description="s; the authors chose 0.01, 0.1, 1, 10 or 100 for each task")
    dropout: float = Field(0.1, ge=0, lt=1, description="on the r numbers after the core")
    head: bool = Field(True, description="train the new head of an encoder as well")


@method("kadaptation", version=1, implementation=f"{_PACKAGE}.kronecker:KAdaptation", changes={"structure"})
class KAdaptationConfig(MethodConfig):
    """KAdaptation (He et al. 2023): queries and values change by scale sum_i A_i kron B_i, both rank one, A shared.

    The released code adds the query's change after the division by the root of the head size; this is a change of the weight.
    """

    n: int = Field(32, ge=1, description="number of Kronecker products, and the side of the square matrices A_i")
    scale: float = Field(160.0, gt=0, description="5 alpha / r, with the authors' alpha = 128 and r = 4")
    dropout: float = Field(0.5, ge=0, lt=1, description="on the entries of the d x d update while training")
    shared_bound: float = Field(0.01, gt=0, description="A's factors start as uniform(-this, this)")
    both_zero: bool = Field(
        False,
        description="start both factors of every B_i at zero, as the released code does: the update then has no gradient, stays "
        "zero for ever, and only the bias and the head train",
    )
    head: bool = Field(True, description="train the new head of an encoder as well")


@method("noah-subnet", version=1, implementation=f"{_PACKAGE}.noah:NOAHSubnet", changes={"structure"}, persistent=True)
class NOAHSubnetConfig(MethodConfig):
    """A subnet that NOAH found (Zhang et al. 2022): prompts, LoRA and an adapter of a size of their own in each layer."""

    prompts: list[int] = Field(
        min_length=1, description="for each layer, tokens that take the place of the last layer's"
    )
    lora: list[int] = Field(
        min_length=1, description="for each layer, rank of one LoRA over query, key and value together"
    )
    adapters: list[int] = Field(min_length=1, description="for each layer, width of the adapter after the MLP")
    head: bool = Field(True, description="train the new head of an encoder as well")


@method("dsee", version=1, implementation=f"{_PACKAGE}.dsee:DSEE", changes={"structure"}, persistent=True)
class DSEEConfig(MethodConfig):
    """DSEE (Chen et al. 2021): a low-rank plus sparse update of queries and values, which then decides what is pruned.

    What is pruned is drawn once, at `prune_at`; the update and the head are trained before and after.
    """

    rank: int = Field(16, ge=1, description="r, of the product B A")
    alpha: float = Field(32.0, gt=0, description="the update, low-rank and sparse, is scaled by alpha / r")
    entries: int = Field(16, ge=0, description="N: trained entries of the sparse part S2 of each matrix")
    support: Literal["decomposition", "random"] = Field(
        "decomposition",
        description="where they stand: at the largest values that a low-rank approximation of the pretrained matrix leaves "
        "over, or anywhere",
    )
    rounds: int = Field(100, ge=1, description="rounds of that approximation; each adds up to five to its rank")
    sparsity: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of query and value weights masked (S1) where the update is smallest, over all layers",
    )
    dense_sparsity: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="share of key and dense weights masked by their own magnitude, over all layers; `sparsity` when absent",
    )
    heads: int = Field(
        0, ge=0, description="heads removed in each layer, those whose update of query and value is smallest"
    )
    units: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of feed-forward units removed in each layer, those with the smallest weights; no released script "
        "removes any, and the choice by weights is ours",
    )
    prune_at: float = Field(
        1 / 3, ge=0, lt=1, description="share of the run's steps after which masks and heads are drawn"
    )
    head: bool = Field(True, description="train the new head of an encoder as well")
