"""Configurations of the methods that save memory in training; read without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from replica.methods.registry import MethodConfig, method

_PACKAGE = "replica.methods.memory"


@method("slimfit", version=1, implementation=f"{_PACKAGE}.slimfit:SlimFit", changes={"structure", "optimizer"})
class SlimFitConfig(MethodConfig):
    """SlimFit (Ardakani et al. 2023): tensors that moved least are frozen each step; what backward reads is compressed."""

    rate: float = Field(0.9, ge=0, lt=1, description="share of the t tensors that is frozen at a time (floor(rate t))")
    compress: bool = Field(
        True, description="keep what backward reads of GELU, attention and norms in 4 or 8 bits, or pruned"
    )
    norm_density: float = Field(
        0.1, gt=0, le=1, description="share of a frozen layer norm's normalised values that is kept"
    )
    full_copy: bool = Field(
        True,
        description="keep a copy of all weights to measure distances, as published; else of the trained ones, for a step",
    )
    start: float = Field(1e10, gt=0, description="scores start as uniform(0, this): every tensor is trained once first")


@method("galore", version=1, implementation=f"{_PACKAGE}.galore:GaLore", changes={"optimizer"})
class GaLoreConfig(MethodConfig):
    """Gradient low-rank projection (Zhao et al. 2024, Algorithm 2): Adam's moments live in a subspace of each gradient."""

    rank: int = Field(128, ge=1, description="r: dimension of the subspace, for the matrices of the layers")
    update_every: int = Field(200, ge=1, description="T: steps between two projectors")
    scale: float = Field(0.25, gt=0, description="alpha: factor on the update of a projected matrix")
    bits: Literal[32, 8] = Field(32, description="8: all moments are kept as block-wise dynamic codes (8-bit GaLore)")
    block: int = Field(256, ge=1, description="8 bits: values with one scale")
    smallest: int = Field(4096, ge=1, description="8 bits: moments of fewer values stay in 32 bits")
    per_layer: bool = Field(
        False,
        description="update each parameter and free its gradient as soon as it is complete; the run's clipping of the gradient's norm "
        "then has nothing to act on",
    )
    betas: tuple[float, float] = Field((0.9, 0.999), description="decay of Adam's first and second moment")
    epsilon: float = Field(1e-8, gt=0, description="added to the root of the second moment")


@method("eight-bit-optimizer", version=1, implementation=f"{_PACKAGE}.eight_bit:EightBit", changes={"optimizer"})
class EightBitConfig(MethodConfig):
    """8-bit optimizers (Dettmers et al. 2022): states are kept as codes of 8 bits with one scale a block.

    bitsandbytes has the dynamic code with blocks of 256 (the paper's are 2,048); other codes and blocks need `engine: reference`. On a
    processor bitsandbytes 0.50 rounds to 2^-15 of a block's magnitude before it looks for the code, so that no state stays zero; the
    reference, and the library's GPU kernels, take the nearest code.
    """

    update: Literal["adamw", "momentum"] = Field("adamw", description="the rule whose states are quantized")
    engine: Literal["bitsandbytes", "reference"] = Field("bitsandbytes", description="who computes it")
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
    def _what_the_library_has(self) -> EightBitConfig:
        if self.engine == "bitsandbytes" and (self.code, self.block) != ("dynamic", 256):
            raise ValueError(
                f"bitsandbytes has no code '{self.code}' with block {self.block}, only dynamic with 256: use `engine: reference`"
            )
        return self


@method("optimizer-state-error", version=1, implementation=f"{_PACKAGE}.eight_bit:StateError", changes=set())
class StateErrorConfig(MethodConfig):
    """What 8-bit codes would do to the states of the run's own 32-bit Adam, by code and block, after the last step."""

    blocks: list[int] = Field([2048, 256], description="blocks that are tried, besides the whole tensor")
    smallest: int = Field(4096, ge=1, description="tensors of fewer values do not count")


@method(
    "stable-embedding",
    version=1,
    implementation=f"{_PACKAGE}.stable_embedding:Stable",
    changes={"structure"},
    persistent=True,
)
class StableEmbeddingConfig(MethodConfig):
    """The stable embedding of the 8-bit optimizers' paper: a layer norm after the word embedding, before positions."""

    draw: bool = Field(True, description="draw the words anew by Xavier's uniform rule; false keeps pretrained ones")
