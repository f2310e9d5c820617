"""Configuration of `private-gradients`; read without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from replica.methods.registry import MethodConfig, method


@method(
    "private-gradients",
    version=2,
    changes={"loss"},
    reported="epsilon epsilon_prv epsilon_rdp delta noise_multiplier clip sample_rate steps stated",
    costs="trained noise_std noise_norm",
    excludes={"gradients of single examples go through the architecture's own layers": "layers quantization"},
)
class PrivateGradientsConfig(MethodConfig):
    """DP-SGD's gradient (Abadi et al. 2016) as Yu et al. 2022 use it for plug-in modules: clipped by example, noised once.

    Give `noise`, or the `epsilon` that it is to be found for. With `rank` it is the reparametrized gradient perturbation (RGP) of Yu et al.
    2021, "Large Scale Private Learning via Low-rank Reparametrization".
    """

    clip: float = Field(
        10.0, gt=0, description="C: largest norm of one example's gradient over all trained tensors jointly"
    )
    noise: float | None = Field(
        None, ge=0, description="sigma: standard deviation of the noise on the sum, in units of C"
    )
    epsilon: float | None = Field(
        None, gt=0, description="privacy budget of the whole run; the smallest noise that keeps to it is found"
    )
    delta: float = Field(
        1e-5, gt=0, lt=1, description="chance that the budget does not hold, for which epsilon is given"
    )
    accountant: Literal["prv", "rdp"] = Field(
        "prv",
        description="accountant of noise and epsilon: privacy random variables, or Renyi divergences (moments)",
    )
    batch: int | None = Field(
        None,
        ge=1,
        description="B: examples of a logical batch, by which the sum is divided; the run's batch size when absent",
    )
    sampling: Literal["poisson", "shuffled"] = Field(
        "poisson",
        description="each example is in a batch with chance B / N, as accountants assume; or batches of B from a shuffled epoch, as "
        "the released code draws them",
    )
    vectorised: bool = Field(
        True, description="gradients of `chunk` examples in one pass (torch.func.vmap), or one example after the other"
    )
    chunk: int = Field(16, ge=1, description="examples whose single gradients are in memory at once")
    rank: int | None = Field(
        None,
        ge=1,
        description="r: gradients of matrices go through carriers of this rank (RGP), clipped and noised there; absent: they are whole",
    )
    power_iterations: int = Field(1, ge=1, description="K: rounds of the power method that finds the carriers")

    @model_validator(mode="after")
    def _noise_or_budget(self) -> PrivateGradientsConfig:
        if (self.noise is None) == (self.epsilon is None):
            raise ValueError("give either `noise` (sigma) or `epsilon` (the budget that sigma is found for)")
        return self
