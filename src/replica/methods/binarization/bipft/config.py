"""Configuration of `bipft`; read without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from replica.methods.registry import MethodConfig, method


@method(
    "bipft",
    version=2,
    changes={"layers"},
    persistent=True,
    costs="operations.* storage.*",
    excludes={
        "its layers have no weights that train in place or take masks": "masks quantization fact ladder-side-tuning prefix-tuning",
    },
)
class BiPFTConfig(MethodConfig):
    """Fully binary BERT with optional low-rank residual estimators (Xing et al. 2024, arXiv 2312.08937).

    As a method of a pre-training run (with `hidden-distillation`) it gives BiPFT; as a method of a fine-tuning run that
    starts from full-precision weights it is the plain task-specific binarization that BiPFT is compared with.
    """

    estimators: bool = Field(
        True,
        description="BiPFT-B: rank-1 full-precision estimators (q_p, k_p, q_m, k_m, v_p) of the loss by binarizing query, key "
        "and value; without them BiPFT-A",
    )
    store: Literal["latent", "packed"] = Field(
        "latent",
        description="form that a finished run stores: the full-precision latent weights, which can be trained on, or one bit "
        "for each binary weight and the scales, for inference only",
    )
    form: Literal["latent", "packed"] = Field(
        "latent",
        description="form of the stored weights; written by the method when it packs, never chosen in a paper's file",
    )
