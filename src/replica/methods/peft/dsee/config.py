"""Configuration of DSEE."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from replica.methods.registry import MethodConfig, method


@method(
    "dsee",
    version=1,
    changes={"modules", "trainable", "masks"},
    persistent=True,
    recorded="sparsity heads_removed",
    costs="heads heads_removed_share units flops_folded flops_with_update pools.*",
)
class DSEEConfig(MethodConfig):
    """DSEE (Chen et al. 2021): a low-rank plus sparse update of queries and values, whose size then decides the pruning.

    Masks and heads are drawn once, at `prune_at`; the update and the head are trained before and after.
    """

    rank: int = Field(16, ge=1, description="r, of the product B A")
    alpha: float = Field(32.0, gt=0, description="the update, low-rank and sparse, is scaled by alpha / r")
    entries: int = Field(16, ge=0, description="N: trained entries of the sparse part S2 of each matrix")
    support: Literal["decomposition", "random"] = Field(
        "decomposition",
        description="their positions: at the largest values that a low-rank approximation of the pretrained matrix leaves "
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
