"""Configuration of `tinybert-distillation`; read without torch."""

from __future__ import annotations

from pydantic import Field

from replica.methods.registry import MethodConfig, method


@method(
    "tinybert-distillation",
    version=1,
    changes={"maps", "loss"},
    needs_teacher=True,
    recorded="attention_loss embedding_loss hidden_loss",
    excludes={
        "it compares states of each position, and the other adds positions": "prompt-tuning",
    },
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
