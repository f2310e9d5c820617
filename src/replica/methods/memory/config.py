"""Configurations of the methods that save memory in training; read without torch."""

from __future__ import annotations

from pydantic import Field

from replica.methods.registry import MethodConfig, method

_PACKAGE = "replica.methods.memory"


@method("galore", version=1, implementation=f"{_PACKAGE}.galore:GaLore", changes={"optimizer"})
class GaLoreConfig(MethodConfig):
    """Gradient low-rank projection (Zhao et al. 2024, Algorithm 2): Adam's moments live in a subspace of each gradient."""

    rank: int = Field(128, ge=1, description="r: dimension of the subspace, for the matrices of the layers")
    update_every: int = Field(200, ge=1, description="T: steps between two projectors")
    scale: float = Field(0.25, gt=0, description="alpha: factor on the update of a projected matrix")
    betas: tuple[float, float] = Field((0.9, 0.999), description="decay of Adam's first and second moment")
    epsilon: float = Field(1e-8, gt=0, description="added to the root of the second moment")
