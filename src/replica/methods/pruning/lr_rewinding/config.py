"""Configuration of `lr-rewinding`; read without torch."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from replica.methods.registry import MethodConfig, method


@method("lr-rewinding", version=1, changes={"schedule"})
class LearningRateRewindingConfig(MethodConfig):
    """The saw-tooth learning rate of gradual pruning: back to its peak at every mask update, then linear to zero.

    The fields are those of `gradual-magnitude-pruning`, as shares of the steps, and should have its values.
    """

    start: float = Field(0.0, ge=0, lt=1, description="t_0: the window in which the rate is rewound opens")
    end: float = Field(0.5, gt=0, lt=1, description="t_1: the window closes")
    interval: float = Field(0.01, gt=0, le=1, description="share of the steps between two rewinds; at least one step")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.start >= self.end:
            raise ValueError(f"start ({self.start}) must lie before end ({self.end})")
        return self
