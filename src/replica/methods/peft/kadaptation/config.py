"""Configuration of KAdaptation."""

from __future__ import annotations

from pydantic import Field

from replica.methods.registry import MethodConfig, method


@method("kadaptation", version=1, changes={"modules", "trainable"})
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
