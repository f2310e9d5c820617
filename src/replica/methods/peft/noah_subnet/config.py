"""Configuration of a subnet found by NOAH."""

from __future__ import annotations

from pydantic import Field

from replica.methods.registry import MethodConfig, method


@method("noah-subnet", version=1, changes={"modules", "trainable"}, persistent=True)
class NOAHSubnetConfig(MethodConfig):
    """A subnet that NOAH found (Zhang et al. 2022): prompts, LoRA and an adapter of a size of their own in each layer."""

    prompts: list[int] = Field(
        min_length=1, description="for each layer, tokens that take the place of the last layer's; with 0 these stay"
    )
    lora: list[int] = Field(
        min_length=1, description="for each layer, rank of one LoRA over query, key and value together"
    )
    adapters: list[int] = Field(min_length=1, description="for each layer, width of the adapter after the MLP")
    head: bool = Field(True, description="train the new head of an encoder as well")
