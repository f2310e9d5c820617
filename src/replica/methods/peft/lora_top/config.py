"""Configuration of LoRA in the upper layers."""

from __future__ import annotations

from pydantic import Field

from replica.methods.peft.lora.config import LoRAConfig
from replica.methods.registry import method


@method("lora-top", version=1, changes={"modules", "trainable"})
class LoRATopConfig(LoRAConfig):
    """LoRA in the upper layers alone, as AdapterDrop for adapters: the layers below need no gradient."""

    skip_layers: int = Field(5, ge=0, description="first layers of each stack that are left as they are")
