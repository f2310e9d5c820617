"""Configuration of adapters of hypercomplex layers."""

from __future__ import annotations

from pydantic import Field

from replica.methods.peft.shared_options import AdapterOptions
from replica.methods.registry import method


@method("phm-adapter", version=1, changes={"modules", "trainable"}, persistent=True)
class PHMAdapterConfig(AdapterOptions):
    """Adapters of parameterized hypercomplex multiplications: H = sum_i A_i kron B_i, both own to each layer."""

    n: int = Field(12, ge=1, description="number of Kronecker products, and the side of the square matrices A_i")
    rule_std: float = Field(0.01, ge=0, description="A starts as normal(0, this)")
