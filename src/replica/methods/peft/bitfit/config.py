"""Configuration of BitFit."""

from __future__ import annotations

from pydantic import Field

from replica.methods.registry import MethodConfig, method


@method("bitfit", version=1, changes={"trainable"}, persistent=True)
class BitFitConfig(MethodConfig):
    """BitFit (Ben Zaken et al. 2022): only biases are trained; layers without a bias get one that starts at zero.

    T5 has no biases. As Compacter's authors did, its linear layers, the layer norms inside its blocks (not the final
    ones) and its output layer get one: 280,960 in T5-base, 0.126 % of it.
    """

    head: bool = Field(True, description="train the weights of a new head of an encoder as well")
