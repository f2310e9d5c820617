"""Configuration of Factor-Tuning."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from replica.methods.registry import MethodConfig, method


@method("fact", version=1, changes={"modules", "trainable"})
class FacTConfig(MethodConfig):
    """Factor-Tuning (Jie and Deng 2023): all d x d matrices of the layers change by s U core_j V, U and V shared.

    `tensor-train` is FacT-TT (a core of its own for each matrix), `tucker` FacT-TK (cores mixed from one shared tensor).
    """

    form: Literal["tensor-train", "tucker"] = Field(
        "tensor-train", description="how the tensor of changes is factorised"
    )
    released_slices: bool = Field(
        False,
        description="Tucker: cores of a layer of several matrices are slices of the mixed tensor reshaped from (r, r, n) to (r, n r), as "
        "in the released code, which puts entries of several cores into one; else core j is mixed by column j alone, as in the paper",
    )
    rank: int = Field(16, ge=1, description="r, the same on every side of the factorisation")
    scale: float = Field(1.0, gt=0, description="s; the authors chose 0.01, 0.1, 1, 10 or 100 for each task")
    dropout: float = Field(0.1, ge=0, lt=1, description="on the r numbers after the core")
    head: bool = Field(True, description="train the new head of an encoder as well")
