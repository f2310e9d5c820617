"""Configuration of ladder side-tuning."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from replica.methods.registry import MethodConfig, method


@method("ladder-side-tuning", version=2, changes={"modules", "trainable"}, persistent=True)
class LadderSideTuningConfig(MethodConfig):
    """Ladder side-tuning (Sung et al. 2022): a narrow transformer reads the layers of the frozen backbone and alone is trained.

    u_i = mu_i h_i + (1 - mu_i) Down_i(b_i), h_{i+1} = Block_i(u_i), with b_i the output of layer i of the backbone,
    mu_i = sigmoid(alpha_i / T) and h_0 = Down_0 of the embeddings. The head reads Up of the last h. Of a model that sees images the
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
        description="down- and up-projections start as normal(0, this) with biases of zero, in the released code for GLUE 0.01; absent: as "
        "torch's linear layers start, as in the released code for images",
    )
    released_walk: bool = Field(
        False,
        description="prune as the released code does: rows kept go on from the encoder's last layer to the decoder's first, and keys and "
        "values of cross-attention keep the columns of the decoder's rows; else the decoder starts at the embedding, and they keep those "
        "of the encoder's rows, whose states they read",
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
