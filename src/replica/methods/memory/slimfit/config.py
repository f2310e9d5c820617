"""Configuration of `slimfit`; read without torch."""

from __future__ import annotations

from pydantic import Field

from replica.methods.registry import MethodConfig, method


@method(
    "slimfit",
    version=1,
    changes={"layers", "optimizer"},
    recorded="frozen moved.* trained.*",
    costs="tensors frozen_tensors frozen_share plain static.* dynamic.* plain_static.* plain_dynamic.*",
    excludes={
        "its layers compute their own backward passes": "modules maps masks quantization",
    },
)
class SlimFitConfig(MethodConfig):
    """SlimFit (Ardakani et al. 2023): tensors that moved least are frozen each step; the inputs of the backward pass are compressed."""

    rate: float = Field(0.9, ge=0, lt=1, description="share of the t tensors that is frozen at a time (floor(rate t))")
    compress: bool = Field(
        True,
        description="keep the activations that backward reads of GELU, attention and norms in 4 or 8 bits, or pruned",
    )
    norm_density: float = Field(
        0.1, gt=0, le=1, description="share of a frozen layer norm's normalised values that is kept"
    )
    full_copy: bool = Field(
        True,
        description="keep a copy of all weights to measure distances, as published; else of the trained ones, for a step",
    )
    start: float = Field(1e10, gt=0, description="scores start as uniform(0, this): every tensor is trained once first")
    epsilon: float = Field(1e-8, gt=0, description="of AdamW; the released scripts have 1e-6")
