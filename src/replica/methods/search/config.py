"""Configurations of the searches; read without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from replica.methods.registry import MethodConfig, method


@method(
    "s3pet",
    version=1,
    implementation="replica.methods.search.s3pet:SparseStructureSearch",
    changes={"structure", "optimizer"},
    persistent=True,
)
class S3PETConfig(MethodConfig):
    """Sparse structure search (Hu et al. 2022): gated rank-1 updates, biases, norm scales and adapters within a budget."""

    space: Literal["mix", "lora"] = Field(
        "mix", description="all kinds of slots (S3PET-M) or rank-1 LoRA alone (S3PET-L)"
    )
    budget: float = Field(1.389e-4, gt=0, lt=1, description="expected trained share of the backbone's parameters")
    beta: float = Field(1.0, gt=0, description="temperature of the gates' probabilities")
    reduction: int = Field(32, ge=1, description="bottleneck of the rank-1 adapters = width / reduction")
    structure_rate: float = Field(0.1, gt=0, description="learning rate of the structural parameters alpha")
