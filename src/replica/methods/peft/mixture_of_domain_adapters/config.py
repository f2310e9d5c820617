"""Configuration of Mixture-of-Domain-Adapters."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from replica.methods.registry import MethodConfig, method


@method(
    "mixture-of-domain-adapters",
    version=1,
    changes={"modules", "trainable", "loss", "optimizer"},
    persistent=True,
    reported="layer*.adapter* layer*.backbone",
    recorded="domain_loss sampling_loss gate_backbone",
)
class MixtureConfig(MethodConfig):
    """MixDA (Diao et al. 2023): o = w [K_1 ... K_k; F], domain adapters K next to the feed-forward output F of some layers.

    Stage `domain`: loss = balance L_K + L_S, the masked words of domain text and, on general text, the mean squared difference between the
    layers' outputs with and without the mixture. Stage `task`, `from:` the former: the adapters are frozen; gates, and the parameters of a
    method before this one (an `adapter` with `places: feed-forward`, which comes after the mixture), learn the task.
    """

    stage: Literal["domain", "task"] = Field("domain", description="which of the two stages this run is")
    layers: list[int] = Field(
        [7, 11], min_length=1, description="layers with domain adapters, from 0 (RoBERTa-large's 24 in the paper)"
    )
    reduction: int = Field(16, ge=1, description="bottleneck of a domain adapter = feed-forward width / reduction")
    adapters: int = Field(1, ge=1, description="k: domain adapters in parallel")
    which: int = Field(0, ge=0, description="the one of them that stage `domain` trains")
    balance: float = Field(0.5, ge=0, description="lambda, on the loss of masked domain words")
    general: bool = Field(
        True, description="stage `domain`: with L_S, which needs general text `beside:` the run's own"
    )
    gate: Literal["paper", "released", "none"] = Field(
        "paper",
        description="sigmoid of two layers over each word's attention output; softmax of four layers over the last word's feed-forward "
        "activation; or the sum of all",
    )
    gate_width: int | None = Field(
        None, ge=1, description="width inside the gate; absent: a sixteenth of the hidden size (paper), 768 (released)"
    )
    gate_rate: float | None = Field(None, gt=0, description="learning rate of the gates; the run's when absent")
    dropout: float = Field(0.2, ge=0, lt=1, description="inside the released gate")
    head: bool = Field(True, description="stage `task`: train the new head of an encoder as well")

    def changed(self, declared: frozenset[str]) -> frozenset[str]:
        """Stage `task` adds its gates to the parameters that another method trains."""
        return declared if self.stage == "domain" else declared - {"trainable"}
