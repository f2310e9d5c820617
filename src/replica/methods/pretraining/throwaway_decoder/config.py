"""Configuration of `throwaway-decoder`; read without torch."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from replica.methods.registry import MethodConfig, method


@method("throwaway-decoder", version=1, changes={"modules"})
class ThrowawayDecoderConfig(MethodConfig):
    """DrBERT / BPDec (Liang and Liang 2024): Transformer blocks between encoder and vocabulary head, for pre-training only.

    Shares, probability and the grain of the mix were not readable in any source: the defaults are ours.
    """

    blocks: int = Field(2, ge=1, description="k: blocks after the encoder, each a layer of the encoder's kind")
    readmitted: list[float] = Field(
        [0.5, 1.0],
        description="share of the masked positions that each block may look at (gradual unmasking attention); the last is 1",
    )
    encoder_share: float = Field(
        0.5, ge=0, le=1, description="probability that a position's vector for the head is the encoder's own"
    )

    @model_validator(mode="after")
    def _gradual(self) -> Self:
        shares = self.readmitted
        if len(shares) != self.blocks:
            raise ValueError(f"readmitted has {len(shares)} shares for {self.blocks} blocks; give one for each")
        if sorted(shares) != shares or shares[0] < 0 or shares[-1] != 1:
            raise ValueError(f"readmitted {shares}: shares must not decrease, lie in 0 to 1 and end with 1")
        return self
