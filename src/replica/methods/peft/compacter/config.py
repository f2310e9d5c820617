"""Configuration of Compacter."""

from __future__ import annotations

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
    rule_std: float = Field(1e-4, ge=0, description="A starts as normal(0, this)")
