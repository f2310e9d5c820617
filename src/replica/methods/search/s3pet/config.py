"""Configuration of `s3pet`; read without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from replica.methods.registry import MethodConfig, method


@method(
    "s3pet",
    version=3,
    changes={"modules", "trainable", "optimizer", "loss"},
    persistent=True,
    excludes={"its space is counted for the architecture's own layers": "layers"},
    reported="budget expected chosen chosen_slots chosen_* kept.*",
    costs="backbone slots parameters budget expected expected_share chosen chosen_slots by_kind.*",
)
class S3PETConfig(MethodConfig):
    """Sparse structure search (Hu et al. 2022): gated rank-1 updates, biases, norm scales and adapters within a budget.

    Two runs: one with `phase: search`, and one with `phase: retrain` that starts `from:` it.
    """

    phase: Literal["search", "retrain"] = Field(
        "search",
        description="find the structure, with alpha and weights on one half of the training set each; or train it on all of "
        "it, from a fresh start",
    )
    order: Literal["second", "first"] = Field(
        "second",
        description="gradient of alpha: through one virtual step of the weights, as in the paper, or at the weights as they are",
    )
    structure: Literal["searched", "random"] = Field(
        "searched",
        description="structure that is retrained: that of the run that this one starts from, or one of its size drawn by the seed",
    )

    space: Literal["mix", "lora"] = Field(
        "mix", description="all kinds of slots (S3PET-M) or rank-1 LoRA alone (S3PET-L)"
    )
    budget: float = Field(1.389e-4, gt=0, lt=1, description="expected trained share of the backbone's parameters")
    beta: float = Field(1.0, gt=0, description="temperature of the gates' probabilities")
    reduction: int = Field(32, ge=1, description="bottleneck of the rank-1 adapters = width / reduction")
    lora_alpha: float = Field(16, gt=0, description="of rank-1 LoRA, whose addition it scales; 16 in the released code")
    structure_rate: float = Field(
        0.1, gt=0, description="learning rate of the structural parameters alpha; it decays as the weights' does"
    )
    structure_clip: float = Field(2.0, gt=0, description="largest norm of alpha's gradient")
    head: bool = Field(True, description="train the new head of an encoder as well")
