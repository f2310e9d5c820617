"""Configuration of adapters of low-rank layers."""

from __future__ import annotations

from pydantic import Field

from replica.methods.peft.shared_options import AdapterOptions
from replica.methods.registry import method


@method("adapter-lowrank", version=1, changes={"modules", "trainable"}, persistent=True)
class AdapterLowRankConfig(AdapterOptions):
    """Adapters whose two matrices are products of low-rank factors: W = W_left W_right."""

    rank: int = Field(1, ge=1, description="rank of the factors")
