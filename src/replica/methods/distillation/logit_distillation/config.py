"""Configuration of `logit-distillation`; read without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from replica.methods.registry import MethodConfig, method


@method("logit-distillation", version=1, changes={"loss"}, needs_teacher=True, recorded="distillation_loss task_loss")
class LogitDistillationConfig(MethodConfig):
    """Soft targets (Hinton et al. 2015): alpha * task loss + (1 - alpha) * T^2 * KL(teacher / T || student / T)."""

    alpha: float = Field(
        0.5, ge=0, le=1, description="weight of the task's own loss: 1 is hard labels only, 0 soft targets only"
    )
    temperature: float = Field(2.0, gt=0, description="T: both models' logits are divided by it before the softmax")
    words: Literal["masked", "all"] = Field(
        "masked",
        description="words of a masked language model at which the vocabulary's logits are compared: those that are masked, as in "
        "the MLM-KD of MiniLM, or all real ones, as in the released code of Prune-OFA; the task's own loss is of masked words",
    )
