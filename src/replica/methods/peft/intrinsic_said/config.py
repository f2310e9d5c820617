"""Configuration of training in a random subspace."""

from __future__ import annotations

from pydantic import Field

from replica.methods.registry import MethodConfig, method


@method("intrinsic-said", version=1, changes={"modules", "trainable"})
class IntrinsicSAIDConfig(MethodConfig):
    """Structure-aware intrinsic dimension (Aghajanyan et al. 2021, eq. 3): theta = theta_0 + lambda_l P(theta_d)."""

    dimension: int = Field(20_000, ge=2, description="d: trained numbers, the layers' scales lambda among them")
    head: bool = Field(True, description="train the new head of an encoder plainly, outside the subspace")
