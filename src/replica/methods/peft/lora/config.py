"""Configuration of LoRA."""

from __future__ import annotations

from pydantic import Field

from replica.methods.registry import MethodConfig, method


@method("lora", version=1, changes={"modules", "trainable"})
class LoRAConfig(MethodConfig):
    """LoRA (Hu et al. 2022) by the peft library: W + alpha / r * B A, merged when training is done."""

    rank: int = Field(8, ge=1, description="r")
    alpha: float = Field(16, gt=0, description="the update is scaled by alpha / r")
    dropout: float = Field(0.0, ge=0, lt=1, description="on the input of A")
    targets: list[str] = Field(
        [], description="last parts of the names of the linear layers; the query and value projections when empty"
    )
    skip_layers: int = Field(0, ge=0, description="first layers of each stack that are left as they are")
    initial_std: float | None = Field(
        None, gt=0, description="A and B both start as normal(0, this); absent: as peft starts them, B at zero"
    )
    layer_norms: bool = Field(False, description="train every layer norm as well")
    head: bool = Field(True, description="train the new head of an encoder as well")
    pooler: bool = Field(False, description="train the dense layer that BERT puts before a classifier")
    also: list[str] = Field([], description="globs over names of parameters that are trained as well")
