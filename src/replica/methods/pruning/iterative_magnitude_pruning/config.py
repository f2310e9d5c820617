"""Configuration of `iterative-magnitude-pruning`; read without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from replica.methods.pruning.head_names import HEADS
from replica.methods.registry import MethodConfig, method


@method(
    "iterative-magnitude-pruning",
    version=2,
    changes={"masks", "schedule", "loss"},
    recorded="sparsity",
    costs=(
        "weights rounds epochs sparsity.round-* kept.round-* rounds_to_target epochs_to_target "
        "epochs_with_ticket optima penalty_at_optimum"
    ),
    excludes={
        "every round begins from the first weights, which quantised layers do not keep": "quantization",
    },
)
class IterativeMagnitudePruningConfig(MethodConfig):
    """Training in rounds, each from the same weights with fewer of them (Frankle and Carbin 2019; Frankle et al. 2020).

    The run's steps are shared out over the rounds and the training of the last ticket: T steps for the first training and, with
    rewinding to its step k, T - k for each other.
    """

    rate: float = Field(0.2, gt=0, lt=1, description="share of the weights left that a round prunes")
    rounds: int = Field(11, ge=1, description="trainings that end in a cut; one more trains the ticket")
    reach: Literal["global", "layer"] = Field("global", description="magnitudes compared over all layers or in each")
    rewind: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="k: share of the first training after which the weights are kept that rounds start from",
    )
    decay_at: tuple[float, ...] = Field((), description="shares of a training at which the rate falls to a tenth")
    repel: float = Field(
        0.0,
        description="lambda_r: weight of the mean squared cosine to the optima of earlier rounds (Maene et al. 2021); below 0 it attracts",
    )
    exclude: tuple[str, ...] = Field(HEADS, description="layers whose name contains one of these stay dense")
