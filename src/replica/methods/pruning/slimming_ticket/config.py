"""Configuration of `slimming-ticket`; read without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from replica.methods.registry import MethodConfig, method


@method(
    "slimming-ticket",
    version=2,
    changes={"masks"},
    persistent=True,
    costs="heads_cut_share fewest_heads_cut most_heads_cut neurons neurons_cut neurons_cut_share",
    excludes={
        "the drawn ticket has other sizes than the modules of the other": "modules trainable layers maps quantization",
    },
)
class SlimmingTicketConfig(MethodConfig):
    """EarlyBERT (Chen et al. 2021): heads and feed-forward neurons are cut by coefficients learned early under an L1 penalty.

    The run that searches gives the ticket: the smaller network, with the weights from before the search. A run that starts from
    it trains it, without the penalty. `kept_heads` and `kept_neurons` are written by the method.
    """

    scores: Literal["learned", "random"] = Field(
        "learned", description="cut by learned coefficients, or at once by numbers drawn uniformly by the run's seed"
    )
    heads: float = Field(1 / 3, ge=0, lt=1, description="share of the heads that is cut from every layer")
    neurons: float = Field(0.4, ge=0, lt=1, description="share of the neurons of all layers together that is cut")
    heads_penalty: float = Field(1e-4, ge=0, description="lambda on the sum of |c| over heads")
    neurons_penalty: float = Field(1e-4, ge=0, description="lambda on the sum of |c| over neurons")
    draw: float = Field(
        0.2,
        gt=0,
        description="the ticket is drawn after this share of the first epoch; from 1 on, this number of steps",
    )
    kept_heads: list[int] | None = Field(None, description="of a drawn ticket: heads of each layer")
    kept_neurons: list[int] | None = Field(None, description="of a drawn ticket: feed-forward neurons of each layer")
