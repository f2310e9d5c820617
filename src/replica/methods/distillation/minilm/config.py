"""Configuration of `minilm`; read without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from replica.methods.registry import MethodConfig, method


@method(
    "minilm",
    version=1,
    changes={"loss"},
    needs_teacher=True,
    recorded="attention_loss value_loss",
    excludes={
        "it compares the encoder's attention, which the other leaves as it is or pads": "ladder-side-tuning prompt-tuning intrinsic-said",
    },
)
class MiniLMConfig(MethodConfig):
    """Deep self-attention distillation (Wang et al. 2020, equations 6-10)."""

    layers: Literal["last", "uniform"] = Field(
        "last",
        description="`last`: only the last layers of both models; `uniform`: student layer m learns from teacher layer "
        "g(m) = m * L / M (the layer-to-layer ablation)",
    )
    value: Literal["relation", "mse", "none"] = Field(
        "relation",
        description="the second term of the loss, on the values: their relation (L_VR), the vectors themselves "
        "by mean squared error through a learned d' -> d matrix (ablation Value-MSE), or no such term (ablation -Value-Rel)",
    )
    teacher_hidden_size: int | None = Field(
        None,
        ge=1,
        description="d of the teacher; needed for `value: mse` only where its signals are stored and it is not loaded",
    )
