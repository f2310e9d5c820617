"""Configuration of bottleneck adapters."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from replica.methods.peft.shared_options import AdapterOptions
from replica.methods.registry import method


@method("adapter", version=1, changes={"modules", "trainable"}, persistent=True)
class AdapterConfig(AdapterOptions):
    """Bottleneck adapters (Houlsby et al. 2019).

    `places: feed-forward` with `input: normed` is the adapter of Pfeiffer et al. (2021) as the library adapter-transformers has it.
    """

    start: Literal["normal", "xavier"] = Field(
        "normal",
        description="both layers by `initial_std`; or the first by Xavier's normal(0, sqrt(2 / (inputs + outputs))) and the second at zero",
    )
    initial_std: float = Field(0.01, ge=0, description="weights start as normal(0, this); biases at zero")
