"""Configuration of bottleneck adapters."""

from __future__ import annotations

from pydantic import Field

from replica.methods.peft.shared_options import AdapterOptions
from replica.methods.registry import method


@method("adapter", version=1, changes={"modules", "trainable"}, persistent=True)
class AdapterConfig(AdapterOptions):
    """Bottleneck adapters (Houlsby et al. 2019); `places: feed-forward` is the placement of Pfeiffer et al. 2021."""

    initial_std: float = Field(0.01, ge=0, description="weights start as normal(0, this); biases at zero")
