"""Configurations of the pruning methods; read without torch."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from replica.methods.registry import MethodConfig, method

_PACKAGE = "replica.methods.pruning"

#: Parts of names that mark a linear layer as the head's: MLM and NSP heads, classifiers, answer spans, language models.
HEADS = ("cls", "classifier", "qa_outputs", "vocab_transform", "vocab_projector", "lm_head")


@method(
    "gradual-magnitude-pruning",
    version=1,
    implementation=f"{_PACKAGE}.gradual:GradualMagnitudePruning",
    changes={"structure"},
)
class GradualMagnitudePruningConfig(MethodConfig):
    """Magnitude pruning layer by layer on a cubic schedule (Zhu and Gupta 2017; Zafrir et al. 2021).

    Points in time are shares of the run's optimizer steps, so that one configuration holds at every scale: with 100,000
    steps the defaults are the published 0, 50,000, 80,000 and an update every 1,000 steps.
    """

    sparsity: float = Field(0.9, ge=0, lt=1, description="s_f: share of zeros in every pruned matrix at the end")
    start: float = Field(0.0, ge=0, lt=1, description="t_0 as a share of the steps: sparsity starts to grow")
    end: float = Field(0.5, ge=0, le=1, description="t_1 as a share of the steps: the target is reached")
    last_update: float = Field(0.8, ge=0, le=1, description="share of the steps after which the masks stay as they are")
    interval: float = Field(0.01, gt=0, le=1, description="share of the steps between two updates; at least one step")
    block: tuple[int, int] | None = Field(
        None, description="prune blocks of (outputs, inputs) by their mean magnitude; single weights when absent"
    )
    exclude: tuple[str, ...] = Field(HEADS, description="linear layers whose name contains one of these stay dense")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.start <= self.end <= self.last_update:
            raise ValueError(
                f"start ({self.start}), end ({self.end}) and last_update ({self.last_update}) must not decrease, "
                "else the target sparsity is never reached"
            )
        if self.block is not None and min(self.block) < 1:
            raise ValueError(f"block {self.block}: both sides must be at least 1")
        return self


@method("lr-rewinding", version=1, implementation=f"{_PACKAGE}.rewinding:LearningRateRewinding", changes={"schedule"})
class LearningRateRewindingConfig(MethodConfig):
    """The saw-tooth learning rate beside gradual pruning: back to its peak at every mask update, then linear to zero.

    The fields are those of `gradual-magnitude-pruning`, as shares of the steps, and should have its values.
    """

    start: float = Field(0.0, ge=0, lt=1, description="t_0: the window in which the rate is rewound opens")
    end: float = Field(0.5, gt=0, lt=1, description="t_1: the window closes")
    interval: float = Field(0.01, gt=0, le=1, description="share of the steps between two rewinds; at least one step")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.start >= self.end:
            raise ValueError(f"start ({self.start}) must lie before end ({self.end})")
        return self


@method("pattern-lock", version=1, implementation=f"{_PACKAGE}.pattern_lock:PatternLock", changes={"structure"})
class PatternLockConfig(MethodConfig):
    """Fine-tuning of a sparse model whose zeros stay zero (Zafrir et al. 2021)."""

    exclude: tuple[str, ...] = Field(
        (*HEADS, "pooler"), description="linear layers whose name contains one of these are trained in full"
    )


@method(
    "sparse-training", version=1, implementation=f"{_PACKAGE}.sparse_training:SparseTraining", changes={"structure"}
)
class SparseTrainingConfig(MethodConfig):
    """A network that is sparse from its first step on: RigL (Evci et al. 2020), SET, SNFS, or a mask that never moves."""

    sparsity: float = Field(0.8, ge=0, lt=1, description="S: share of zeros over all sparse layers")
    distribution: Literal["uniform", "er", "erk"] = Field(
        "erk",
        description="how S is spread over layers: equally, or by Erdos-Renyi without or with the kernel's dimensions",
    )
    update: Literal["static", "set", "snfs", "rigl"] = Field(
        "rigl",
        description="what grows: nothing, random weights, by the momentum of the dense gradient, by the dense gradient",
    )
    dense: tuple[str, ...] = Field(
        (), description="layers whose name contains one of these have no mask and no part in the budget"
    )
    interval: int = Field(100, ge=1, description="Delta T: steps between two updates of the masks")
    drop: float = Field(0.3, gt=0, le=1, description="alpha: share of a layer's weights dropped at the first update")
    end: float = Field(0.75, gt=0, le=1, description="T_end as a share of the steps: no update after it")
    momentum: float = Field(0.9, ge=0, lt=1, description="snfs: decay of the mean of dense gradients")


@method(
    "iterative-magnitude-pruning",
    version=1,
    implementation=f"{_PACKAGE}.iterative:IterativeMagnitudePruning",
    changes={"structure", "schedule", "loss"},
)
class IterativeMagnitudePruningConfig(MethodConfig):
    """Training in rounds, each from the same weights with fewer of them (Frankle and Carbin 2019; Frankle et al. 2020).

    The run's steps are shared out equally over the rounds and the training of the last ticket.
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


@method(
    "hard-concrete-mask",
    version=1,
    implementation=f"{_PACKAGE}.hard_concrete:HardConcreteMask",
    changes={"structure", "loss"},
)
class HardConcreteMaskConfig(MethodConfig):
    """Masks learned over frozen weights through hard-concrete gates (Louizos et al. 2018; Zheng et al. 2022)."""

    sparsity: float = Field(0.3, ge=0, lt=1, description="share of the masked weights that the drawn ticket lacks")
    gamma: float = Field(-0.1, lt=0, description="gamma: lower end of the stretched gate")
    zeta: float = Field(1.1, gt=1, description="zeta: upper end of the stretched gate")
    beta: float = Field(2 / 3, gt=0, lt=1, description="beta: temperature of the gate in training")
    initial: float = Field(0.9, gt=0, lt=1, description="value of every gate in evaluation at the start")
    noise: float = Field(1e-4, gt=0, lt=0.5, description="u is drawn between this and 1 - this")
    penalty: float = Field(
        0.5, ge=0, description="lambda: weight of the expected share of open gates, once it has risen"
    )
    penalty_start: float = Field(0.1, ge=0, le=1, description="share of the steps before the weight rises from 0")
    penalty_rise: float = Field(0.3, ge=0, le=1, description="share of the steps over which it rises, linearly")
    exclude: tuple[str, ...] = Field(HEADS, description="linear layers whose name contains one of these have no mask")


@method(
    "slimming-ticket",
    version=1,
    implementation=f"{_PACKAGE}.slimming:SlimmingTicket",
    changes={"structure"},
    persistent=True,
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
