"""Configuration of `hard-concrete-mask`; read without torch."""

from __future__ import annotations

from pydantic import Field

from replica.methods.pruning.head_names import HEADS
from replica.methods.registry import MethodConfig, method


@method(
    "hard-concrete-mask",
    version=1,
    changes={"masks", "trainable", "loss"},
    recorded="open_gates",
    costs=(
        "layers scores lower upper temperature initial_score initial_gate initial_open_share expected_sparsity kept"
    ),
)
class HardConcreteMaskConfig(MethodConfig):
    """Masks learned over frozen weights through hard-concrete gates (Louizos et al. 2018; Zheng et al. 2022)."""

    sparsity: float = Field(0.3, ge=0, lt=1, description="share of the masked weights that the drawn ticket lacks")
    gamma: float = Field(-0.1, lt=0, description="gamma: lower end of the stretched gate")
    zeta: float = Field(1.1, gt=1, description="zeta: upper end of the stretched gate")
    beta: float = Field(2 / 3, gt=0, lt=1, description="beta: temperature of the gate in training")
    initial: float = Field(0.9, gt=0, lt=1, description="value of every gate in evaluation at the start")
    noise: float = Field(1e-4, gt=0, lt=0.5, description="u is drawn between this and 1 - this")
    penalty: float = Field(
        0.5, ge=0, description="lambda: weight of the expected share of open gates, once it has risen"
    )
    penalty_start: float = Field(0.1, ge=0, le=1, description="share of the steps before the weight rises from 0")
    penalty_rise: float = Field(0.3, ge=0, le=1, description="share of the steps over which it rises, linearly")
    exclude: tuple[str, ...] = Field(HEADS, description="linear layers whose name contains one of these have no mask")
