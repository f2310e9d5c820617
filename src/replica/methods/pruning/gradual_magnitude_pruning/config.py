"""Configuration of `gradual-magnitude-pruning`; read without torch."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from replica.methods.pruning.head_names import HEADS
from replica.methods.registry import MethodConfig, method


@method(
    "gradual-magnitude-pruning",
    version=1,
    changes={"masks"},
    recorded="sparsity",
    costs=(
        "linear_weights kept_weights other_parameters values_only_ratio with_mask_ratio with_rest_ratio "
        "with_mask_and_rest_ratio"
    ),
)
class GradualMagnitudePruningConfig(MethodConfig):
    """Magnitude pruning layer by layer on a cubic schedule (Zhu and Gupta 2017; Zafrir et al. 2021).

    Points in time are shares of the run's optimizer steps, so that one configuration holds at every scale: with 100,000
    steps the defaults are the published 0, 50,000, 80,000 and an update every 1,000 steps.
    """

    sparsity: float = Field(0.9, ge=0, lt=1, description="s_f: share of zeros in every pruned matrix at the end")
    start: float = Field(0.0, ge=0, lt=1, description="t_0 as a share of the steps: sparsity starts to grow")
    end: float = Field(0.5, ge=0, le=1, description="t_1 as a share of the steps: the target is reached")
    last_update: float = Field(0.8, ge=0, le=1, description="share of the steps after which the masks stay as they are")
    interval: float = Field(0.01, gt=0, le=1, description="share of the steps between two updates; at least one step")
    block: tuple[int, int] | None = Field(
        None, description="prune blocks of (outputs, inputs) by their mean magnitude; single weights when absent"
    )
    exclude: tuple[str, ...] = Field(HEADS, description="linear layers whose name contains one of these stay dense")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.start <= self.end <= self.last_update:
            raise ValueError(
                f"start ({self.start}), end ({self.end}) and last_update ({self.last_update}) must not decrease, "
                "else the target sparsity is never reached"
            )
        if self.block is not None and min(self.block) < 1:
            raise ValueError(f"block {self.block}: both sides must be at least 1")
        return self
