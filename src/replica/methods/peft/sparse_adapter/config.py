"""Configuration of SparseAdapter."""

from __future__ import annotations

from pydantic import Field

from replica.methods.peft.adapter.config import AdapterConfig
from replica.methods.peft.shared_options import StartPruningOptions
from replica.methods.registry import method


@method(
    "sparse-adapter",
    version=2,
    changes={"modules", "masks", "trainable"},
    persistent=True,
    costs="prunable pruned kept",
)
class SparseAdapterConfig(AdapterConfig, StartPruningOptions):
    """SparseAdapter (He et al. 2022): the matrices W of adapters are pruned before training, W * M, and the rest is trained.

    Large-Sparse is a bottleneck k times as wide with `sparsity` 1 - 1/k: as many weights stay.
    """

    initial_std: float = Field(0.02, ge=0, description="weights start as normal(0, this); biases at zero")
