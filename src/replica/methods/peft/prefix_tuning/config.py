"""Configuration of prefix tuning."""

from __future__ import annotations

from pydantic import Field

from replica.methods.registry import MethodConfig, method


@method("prefix-tuning", version=1, changes={"modules", "trainable"}, persistent=True)
class PrefixTuningConfig(MethodConfig):
    """Prefix tuning (Li and Liang 2021) with the prefix of the peft library, for encoders of BERT's kind."""

    tokens: int = Field(20, ge=1, description="keys and values that every attention layer gets besides its own")
    layer_norms: bool = Field(False, description="train every layer norm as well")
    head: bool = Field(True, description="train the new head of an encoder as well")
    pooler: bool = Field(False, description="train the dense layer that BERT puts before a classifier")
