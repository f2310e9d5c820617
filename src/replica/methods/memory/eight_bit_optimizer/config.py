"""Configuration of `eight-bit-optimizer`; read without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from replica.methods.registry import MethodConfig, method


@method("eight-bit-optimizer", version=1, changes={"optimizer"})
class EightBitConfig(MethodConfig):
    """8-bit optimizers (Dettmers et al. 2022): states are kept as codes of 8 bits with one scale a block.

    bitsandbytes has the dynamic code with blocks of 256 (the paper's are 2,048); other codes and blocks need `engine: reference`. On a
    processor bitsandbytes 0.50 rounds to 2^-15 of a block's magnitude before it looks for the code, so that no state stays zero; the
    reference, and the library's GPU kernels, take the nearest code.
    """

    update: Literal["adamw", "momentum"] = Field("adamw", description="the rule whose states are quantized")
    engine: Literal["bitsandbytes", "reference"] = Field("bitsandbytes", description="implementation of the update")
    code: Literal["dynamic", "linear", "inverse-dynamic", "quantile"] = Field(
        "dynamic", description="the 256 values that a state may have, times its block's largest magnitude"
    )
    block: int | None = Field(256, ge=1, description="B: values with one scale; null: the whole tensor")
    smallest: int = Field(4096, ge=1, description="tensors of fewer values keep their states in 32 bits")
    keep_sign: bool = Field(
        True,
        description="reference: a first moment's code whose sign is wrong is moved by one (the library does on GPUs alone)",
    )
    betas: tuple[float, float] = Field((0.9, 0.999), description="decay of the moments; momentum uses the first")
    epsilon: float = Field(1e-8, gt=0, description="added to the root of the second moment")

    @model_validator(mode="after")
    def _library_has_the_code(self) -> EightBitConfig:
        if self.engine == "bitsandbytes" and (self.code, self.block) != ("dynamic", 256):
            raise ValueError(
                f"bitsandbytes has no code '{self.code}' with block {self.block}, only dynamic with 256: use `engine: reference`"
            )
        return self
