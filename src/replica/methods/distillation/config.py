"""Configurations of the distillation methods; read without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from replica.methods.registry import MethodConfig, method

_PACKAGE = "replica.methods.distillation"


@method("minilm", version=1, implementation=f"{_PACKAGE}.minilm:MiniLM", changes={"loss"}, needs_teacher=True)
class MiniLMConfig(MethodConfig):
    """Deep self-attention distillation (Wang et al. 2020, equations 6-10)."""

    layers: Literal["last", "uniform"] = Field(
        "last",
        description="`last`: only the last layers of both models; `uniform`: student layer m learns from teacher layer "
        "g(m) = m * L / M (the layer-to-layer ablation)",
    )
    value: Literal["relation", "mse", "none"] = Field(
        "relation",
        description="what is learned of the values beside the attention: their relation (L_VR), the vectors themselves "
        "by mean squared error through a learned d' -> d matrix (ablation Value-MSE), or nothing (ablation -Value-Rel)",
    )
    teacher_hidden_size: int | None = Field(
        None,
        ge=1,
        description="d of the teacher; needed for `value: mse` only where its signals are stored and it is not loaded",
    )


@method(
    "logit-distillation",
    version=1,
    implementation=f"{_PACKAGE}.logits:LogitDistillation",
    changes={"loss"},
    needs_teacher=True,
)
class LogitDistillationConfig(MethodConfig):
    """Soft targets (Hinton et al. 2015): alpha * task loss + (1 - alpha) * T^2 * KL(teacher / T || student / T)."""

    alpha: float = Field(
        0.5, ge=0, le=1, description="weight of the task's own loss: 1 is hard labels only, 0 soft targets only"
    )
    temperature: float = Field(2.0, gt=0, description="T: both models' logits are divided by it before the softmax")


@method(
    "tinybert-distillation",
    version=1,
    implementation=f"{_PACKAGE}.tinybert:TinyBERT",
    changes={"loss"},
    needs_teacher=True,
)
class TinyBERTConfig(MethodConfig):
    """General distillation of TinyBERT (Jiao et al. 2020, equations 7-9) with the uniform layer map."""

    embedding_weight: float = Field(
        1.0, ge=0, description="weight of the error on the embedding layer's output (L_embd)"
    )
    hidden_weight: float = Field(1.0, ge=0, description="weight of the errors on the layers' outputs (L_hidn)")
    attention_weight: float = Field(1.0, ge=0, description="weight of the errors on the attention scores (L_attn)")
    teacher_hidden_size: int | None = Field(
        None, ge=1, description="d of the teacher; needed only where its signals are stored and it is not loaded"
    )


@method(
    "hidden-distillation",
    version=1,
    implementation=f"{_PACKAGE}.hidden:HiddenDistillation",
    changes={"loss"},
    needs_teacher=True,
)
class HiddenDistillationConfig(MethodConfig):
    """Pre-training objective of BiPFT (Xing et al. 2024): task loss, hidden states, next-sentence soft targets."""

    task_weight: float = Field(1.0, ge=0, description="weight of the task's own loss (masked tokens, next sentence)")
    hidden_weight: float = Field(
        1.0, ge=0, description="weight of the mean over hidden states of their mean squared error"
    )
    next_sentence_weight: float = Field(
        1.0, ge=0, description="weight of the soft cross-entropy on the next-sentence logits; unused without that head"
    )
    teacher_dropout: bool = Field(
        False, description="run the teacher with dropout, as the released code does by leaving it in train mode"
    )
