"""Configurations of the private methods; read without torch."""

from __future__ import annotations

from pydantic import Field

from replica.methods.registry import MethodConfig, method


@method(
    "private-gradients",
    version=1,
    implementation="replica.methods.privacy.gradients:PrivateGradients",
    changes={"loss"},
)
class PrivateGradientsConfig(MethodConfig):
    """DP-SGD's gradient (Abadi et al. 2016) as Yu et al. 2022 use it for plug-in modules: clipped by example, noised once."""

    clip: float = Field(
        10.0, gt=0, description="C: largest norm of one example's gradient over all trained tensors jointly"
    )
    noise: float = Field(1.0, ge=0, description="sigma: standard deviation of the noise on the sum, in units of C")
    batch: int = Field(2000, ge=1, description="B: examples of a logical batch; the sum is divided by it")
