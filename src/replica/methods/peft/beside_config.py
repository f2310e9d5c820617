"""Configurations of networks beside a frozen one, and of losses on what goes on inside it; read without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from replica.methods.registry import MethodConfig, method

_PACKAGE = "replica.methods.peft"


@method(
    "ladder-side-tuning",
    version=2,
    implementation=f"{_PACKAGE}.ladder:LadderSideTuning",
    changes={"structure"},
    persistent=True,
)
class LadderSideTuningConfig(MethodConfig):
    """Ladder side-tuning (Sung et al. 2022): a narrow transformer beside the frozen backbone reads its layers and is trained.

    u_i = mu_i h_i + (1 - mu_i) Down_i(b_i), h_{i+1} = Block_i(u_i), with b_i the output of layer i of the backbone,
    mu_i = sigmoid(alpha_i / T) and h_0 = Down_0 of the embeddings. What the head reads is Up of the last h. Of a model that sees images the
    backbone reads the words alone: regions are in h_0, and Down_i(b_i) is zero there.
    """

    reduction: int = Field(
        8, ge=1, description="r: the widths of the model, its heads and feed-forwards are divided by it"
    )
    layers: list[int] = Field(
        [],
        description="layers of each stack, from 0, that have a side block and a down-projection; all when empty "
        "(T5-base in the paper: 1, 2, 3, 5, 6, 7, 9, 10, 11)",
    )
    temperature: float = Field(0.1, gt=0, description="T of the gates, whose alpha starts at 0")
    start: Literal["fisher", "magnitude", "random"] = Field(
        "fisher",
        description="side blocks start as a structural pruning of the backbone's by Fisher information (squared gradients of the task's "
        "loss, as in the paper), by the squares of its weights, or at random",
    )
    fisher_examples: int = Field(
        1024, ge=1, description="training examples that Fisher's information is summed over, one at a time"
    )
    projection_std: float | None = Field(
        None,
        gt=0,
        description="down- and up-projections start as normal(0, this) with biases of zero, in the released code 0.01; absent: as torch's "
        "linear layers start",
    )
    within_heads: bool = Field(
        False,
        description="keep as many rows of every head; else those of queries, keys and values that matter most in any",
    )
    head: bool = Field(True, description="train the new head of an encoder as well")
    pooler: bool = Field(False, description="train the dense layer that BERT puts before a classifier")
    also: list[str] = Field(
        [], description="globs over names of parameters that are trained as well, before the first layer of a stack"
    )


@method("deft", version=1, implementation=f"{_PACKAGE}.activation_density:DEFT", changes={"loss"})
class DEFTConfig(MethodConfig):
    """DEFT (Runwal et al. 2024): what is trained is trained to leave fewer feed-forward activations o different from zero.

    loss = the task's + weight * mean over layers and examples of mean(o^2 / (o^2 + eps)); an encoder's and a decoder's means are added.
    Put it after the method that says what is trained.
    """

    weight: float = Field(1.0, ge=0, description="lambda of the density loss; 0 measures and changes nothing")
    epsilon: float = Field(1e-7, gt=0, description="eps: below its root an activation counts as partly zero")
    padding: bool = Field(
        True, description="padding counts in the loss and in the reported density, as in the released code"
    )
    examples: int = Field(
        512, ge=1, description="examples of the `select` split on which the density of the trained model is counted"
    )


@method(
    "mixture-of-domain-adapters",
    version=1,
    implementation=f"{_PACKAGE}.mixture:MixtureOfDomainAdapters",
    changes={"structure", "loss", "optimizer"},
    persistent=True,
)
class MixtureConfig(MethodConfig):
    """MixDA (Diao et al. 2023): o = w [K_1 ... K_k; F], domain adapters K beside the feed-forward output F of some layers.

    Stage `domain`: loss = balance L_K + L_S, the masked words of domain text and, on general text, the mean squared difference between the
    layers' outputs with and without the mixture. Stage `task`, `from:` the former: the adapters are frozen; gates, and what a method before
    this one trains (an `adapter` with `places: feed-forward`, which comes after the mixture), learn the task.
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
