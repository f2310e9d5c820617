"""LoRA in the upper layers alone."""

from __future__ import annotations

from replica.methods.peft.lora.method import LoRA


class LoRATop(LoRA):
    """LoRA, except that `skip_layers` is above zero where the configuration does not give it."""
