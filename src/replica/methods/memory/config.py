"""Configurations of the methods that save memory in training; read without torch."""

from __future__ import annotations

from pydantic import Field

from replica.methods.registry import MethodConfig, method

_PACKAGE = "replica.methods.memory"


@method("slimfit", version=1, implementation=f"{_PACKAGE}.slimfit:SlimFit", changes={"structure", "optimizer"})
class SlimFitConfig(MethodConfig):
    """SlimFit (Ardakani et al. 2023): tensors that moved least are frozen each step; what backward reads is compressed."""

    rate: float = Field(0.9, ge=0, lt=1, description="share of the t tensors that is frozen at a time (floor(rate t))")
    compress: bool = Field(
        True, description="keep what backward reads of GELU, attention and norms in 4 or 8 bits, or pruned"
    )
    norm_density: float = Field(
        0.1, gt=0, le=1, description="share of a frozen layer norm's normalised values that is kept"
    )
    full_copy: bool = Field(
        True,
        description="keep a copy of all weights to measure distances, as published; else of the trained ones, for a step",
    )
    start: float = Field(1e10, gt=0, description="scores start as uniform(0, this): every tensor is trained once first")


@method("galore", version=1, implementation=f"{_PACKAGE}.galore:GaLore", changes={"optimizer"})
class GaLoreConfig(MethodConfig):
    """Gradient low-rank projection (Zhao et al. 2024, Algorithm 2): Adam's moments live in a subspace of each gradient."""

    rank: int = Field(128, ge=1, description="r: dimension of the subspace, for the matrices of the layers")
    update_every: int = Field(200, ge=1, description="T: steps between two projectors")
    scale: float = Field(0.25, gt=0, description="alpha: factor on the update of a projected matrix")
    betas: tuple[float, float] = Field((0.9, 0.999), description="decay of Adam's first and second moment")
    epsilon: float = Field(1e-8, gt=0, description="added to the root of the second moment")
