"""Configuration of prompt tuning."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from replica.methods.registry import MethodConfig, method


@method("prompt-tuning", version=1, changes={"modules", "trainable"}, persistent=True)
class PromptTuningConfig(MethodConfig):
    """Prompt tuning (Lester et al. 2021) with the prompt of the peft library before the encoder's input."""

    tokens: int = Field(100, ge=1, description="length of the prompt")
    init: Literal["vocabulary", "random"] = Field(
        "vocabulary", description="embeddings of words drawn by the seed, or normal(0, 1)"
    )
    hidden: int | None = Field(
        None, ge=1, description="width of a two-layer net that the prompt goes through; none when absent"
    )
    layer_norms: bool = Field(False, description="train every layer norm as well")
    head: bool = Field(True, description="train the new head of an encoder as well")
    pooler: bool = Field(False, description="train the dense layer that BERT puts before a classifier")
    also: list[str] = Field([], description="globs over names of parameters that are trained as well")
