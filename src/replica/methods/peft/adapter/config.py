"""Configuration of bottleneck adapters."""

from __future__ import annotations

from pydantic import Field

from replica.methods.peft.shared_options import AdapterOptions
from replica.methods.registry import method


@method("adapter", version=1, changes={"modules", "trainable"}, persistent=True)
class AdapterConfig(AdapterOptions):
    """Bottleneck adapters (Houlsby et al. 2019).

    `places: feed-forward` with `input: normed` is the adapter of Pfeiffer et al. (2021) as the library adapter-transformers has it.
    """

    initial_std: float = Field(0.01, ge=0, description="weights start as normal(0, this); biases at zero")
