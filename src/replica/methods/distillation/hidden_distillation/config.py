"""Configuration of `hidden-distillation`; read without torch."""

from __future__ import annotations

from pydantic import Field

from replica.methods.registry import MethodConfig, method


@method(
    "hidden-distillation",
    version=1,
    changes={"loss"},
    needs_teacher=True,
    recorded="hidden_loss next_sentence_loss task_loss",
)
class HiddenDistillationConfig(MethodConfig):
    """Pre-training objective of BiPFT (Xing et al. 2024): task loss, hidden states, next-sentence soft targets."""

    task_weight: float = Field(1.0, ge=0, description="weight of the task's own loss (masked tokens, next sentence)")
    hidden_weight: float = Field(
        1.0, ge=0, description="weight of the mean over hidden states of their mean squared error"
    )
    next_sentence_weight: float = Field(
        1.0,
        ge=0,
        description="weight of the soft cross-entropy on the next-sentence logits, summed over the two classes; unused without "
        "that head. The released code averages over the classes, which is 0.5",
    )
    teacher_dropout: bool = Field(
        False, description="run the teacher with dropout, as the released code does by leaving it in train mode"
    )
