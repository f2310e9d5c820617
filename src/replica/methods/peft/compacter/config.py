"""Configuration of Compacter."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from replica.methods.peft.shared_options import AdapterOptions
from replica.methods.registry import method


@method("compacter", version=1, changes={"modules", "trainable"}, persistent=True)
class CompacterConfig(AdapterOptions):
    """Compacter (Karimi Mahabadi et al. 2021): H = sum_i A_i kron (s_i t_i^T), A shared by all adapters.

    `places: feed-forward` is Compacter++.
    """

    n: int = Field(4, ge=1, description="number of Kronecker products, and the side of the square matrices A_i")
    train_rule: bool = Field(True, description="train A, the slow weights")
    own_rules: bool = Field(
        False, description="every layer of an adapter has an A of its own, in place of the one that all share"
    )
    start: Literal["products", "tensors"] = Field(
        "products",
        description="A by `rule_std` and each s_i and t_i by Glorot's uniform rule; or A (n, n, n), s (n, inputs / n, 1) and "
        "t (n, 1, outputs / n) by Glorot's normal rule for whole tensors, as the released code of Yu et al. 2022; gains sqrt 2",
    )
    rule_std: float = Field(1e-4, ge=0, description="A starts as normal(0, this)")
