"""Configuration of `galore`; read without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from replica.methods.registry import MethodConfig, method


@method("galore", version=2, changes={"optimizer"}, costs="states projected_states matrices.*")
class GaLoreConfig(MethodConfig):
    """Gradient low-rank projection (Zhao et al. 2024, Algorithm 2): Adam's moments live in a subspace of each gradient."""

    rank: int = Field(128, ge=1, description="r: dimension of the subspace, for the matrices of the layers")
    update_every: int = Field(200, ge=1, description="T: steps between two projectors")
    scale: float = Field(0.25, gt=0, description="alpha: factor on the update of a projected matrix")
    bits: Literal[32, 8] = Field(32, description="8: all moments are kept as block-wise dynamic codes (8-bit GaLore)")
    block: int = Field(256, ge=1, description="8 bits: values with one scale")
    smallest: int = Field(4096, ge=1, description="8 bits: moments of fewer values stay in 32 bits")
    per_layer: bool = Field(
        False,
        description="update each parameter and free its gradient as soon as it is complete; the run's clipping of the gradient's norm "
        "then has no effect",
    )
    betas: tuple[float, float] = Field((0.9, 0.999), description="decay of Adam's first and second moment")
    epsilon: float | None = Field(
        None,
        gt=0,
        description="added to the root of the second moment; absent: 1e-6, with 8 bits 1e-8, as in the released optimizers",
    )
    form: Literal["released", "algorithm-2"] = Field(
        "released",
        description="the released optimizer: square matrices keep right singular vectors, epsilon is added before the bias correction (not "
        "with 8 bits), decay follows the step; or the paper's text: left vectors, epsilon after the correction, decay before",
    )
