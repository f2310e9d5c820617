"""Configuration of `optimizer-state-error`; read without torch."""

from __future__ import annotations

from pydantic import Field

from replica.methods.registry import MethodConfig, method


@method(
    "optimizer-state-error",
    version=1,
    changes=set(),
    reported="*.*.first *.*.second *.*.update",
    costs="plain.* outliers.*",
)
class StateErrorConfig(MethodConfig):
    """Errors that 8-bit codes would make in the states of the run's own 32-bit Adam, by code and block, after the last step."""

    blocks: list[int] = Field([2048, 256], description="sizes of blocks; the whole tensor as one block is measured too")
    smallest: int = Field(4096, ge=1, description="tensors of fewer values do not count")
