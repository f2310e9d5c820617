"""Configuration of `sparse-training`; read without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from replica.methods.registry import MethodConfig, method


@method(
    "sparse-training",
    version=2,
    changes={"masks"},
    recorded="drop_share",
    excludes={"its masks move by gradients of weights that the other freezes": "trainable frozen"},
    costs=(
        "layers dense_layers weights kept_weights density least_density most_density flops sparse_flops "
        "flops_ratio mb dense_mb training.* training_ratio micronet.*"
    ),
)
class SparseTrainingConfig(MethodConfig):
    """A network that is sparse from its first step on: RigL (Evci et al. 2020), SET, SNFS, or a mask that never moves."""

    sparsity: float = Field(0.8, ge=0, lt=1, description="S: share of zeros over all sparse layers")
    distribution: Literal["uniform", "er", "erk"] = Field(
        "erk",
        description="how S is spread over layers: equally, or by Erdos-Renyi without or with the kernel's dimensions",
    )
    update: Literal["static", "set", "snfs", "rigl"] = Field(
        "rigl",
        description="weights that grow: none, random ones, those with the largest momentum of the dense gradient, or dense gradient",
    )
    dense: tuple[str, ...] = Field(
        (), description="layers whose name contains one of these have no mask and no part in the budget"
    )
    interval: int = Field(100, ge=1, description="Delta T: steps between two updates of the masks")
    first_update: Literal["interval", "start"] = Field(
        "interval",
        description="the first exchange is at Delta T (Algorithm 1 of RigL), or as in the released code at once: RigL's at step 0, SET's "
        "and SNFS's after the first step, and every Delta T from there",
    )
    drop: float = Field(0.3, gt=0, le=1, description="alpha: share of a layer's weights dropped at the first update")
    end: float = Field(0.75, gt=0, le=1, description="T_end as a share of the steps: no update after it")
    momentum: float = Field(0.9, ge=0, lt=1, description="snfs: decay of the mean of dense gradients")
