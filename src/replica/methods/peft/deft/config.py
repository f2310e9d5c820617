"""Configuration of DEFT."""

from __future__ import annotations

from pydantic import Field

from replica.methods.registry import MethodConfig, method


@method(
    "deft",
    version=1,
    changes={"loss"},
    reported="density encoder decoder layer*",
    recorded="task_loss density_loss",
    excludes={"it counts the activations of each word, and the other adds positions": "prompt-tuning"},
)
class DEFTConfig(MethodConfig):
    """DEFT (Runwal et al. 2024): training leaves fewer feed-forward activations o different from zero.

    loss = the task's + weight * mean over layers and examples of mean(o^2 / (o^2 + eps)); an encoder's and a decoder's means are added.
    Put it after the method that chooses the trained parameters.
    """

    weight: float = Field(1.0, ge=0, description="lambda of the density loss; with 0 the density is measured only")
    epsilon: float = Field(1e-7, gt=0, description="eps: below its root an activation counts as partly zero")
    padding: bool = Field(
        True, description="padding counts in the loss and in the reported density, as in the released code"
    )
    examples: int = Field(
        512, ge=1, description="examples of the `select` split on which the density of the trained model is counted"
    )
