"""Configuration of LoRA."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

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
    start: Literal["uniform", "xavier"] = Field(
        "uniform",
        description="A is drawn from uniform(+-1 / sqrt(inputs)), as peft does, or from Xavier's normal(0, sqrt(2 / (inputs + rank))); "
        "B is zero",
    )
    layer_norms: bool = Field(False, description="train every layer norm as well")
    head: bool = Field(True, description="train the new head of an encoder as well")
    head_pairs: bool = Field(
        True, description="layers of a new head that fit `targets` get a pair too, whether or not they train as a whole"
    )
    pooler: bool = Field(False, description="train the dense layer that BERT puts before a classifier")
    also: list[str] = Field([], description="globs over names of parameters that are trained as well")

    @model_validator(mode="after")
    def _one_start(self) -> LoRAConfig:
        if self.initial_std is not None and self.start != "uniform":
            raise ValueError("give either `initial_std` (of A and B) or `start` (of A, with B at zero)")
        return self
