"""Configuration of `quantization-aware-training`; read without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from replica.methods.pruning.head_names import HEADS
from replica.methods.registry import MethodConfig, method


@method(
    "quantization-aware-training",
    version=2,
    changes={"quantization"},
    persistent=True,
    excludes={
        "the layers of the other cannot be quantised": (
            "adapter adapter-drop sparse-adapter "
            "hyperformer mixture-of-domain-adapters slimming-ticket hard-concrete-mask"
        ),
    },
)
class QuantizationAwareTrainingConfig(MethodConfig):
    """Training with simulated int8 in every linear layer (Q8BERT, Zafrir et al. 2019, as Prune-OFA uses it).

    Weights: symmetric, one scale per matrix, [-128, 127], range of the values now (Q8BERT) or
    the largest range so far. Activations: asymmetric, one scale
    per tensor, [0, 255], moving average of the batches' ranges. The finished model stores int8.
    """

    start: float = Field(0.0, ge=0, lt=1, description="share of the run's steps before quantisation begins")
    averaging_constant: float = Field(
        0.01, gt=0, le=1, description="share of a new batch in the moving average of activation ranges"
    )
    weight_range: Literal["now", "largest"] = Field(
        "now",
        description="range of a weight matrix: that of its values now, as in Q8BERT's formula, or the largest that it had at any step, "
        "as in the released code of Prune-OFA",
    )
    requantize_outputs: bool = Field(True, description="quantise outputs of the linear layers as well as their inputs")
    plain_outputs: tuple[str, ...] = Field(
        ("output.dense", "value", *HEADS),
        description="layers whose name contains one of these keep outputs as they are; the released configurations name the head of "
        "each task: `classifier` on GLUE, `qa_outputs` on SQuAD",
    )
    exclude: tuple[str, ...] = Field((), description="linear layers whose name contains one of these stay in fp32")
    packed_density: float | None = Field(
        None,
        gt=0,
        le=1,
        description="store sparse matrices as a bit mask and int8 values, with room for this share of nonzero weights; "
        "as whole int8 matrices when absent",
    )
    unpacked: tuple[str, ...] = Field(
        (*HEADS, "pooler"),
        description="with `packed_density`: layers whose name contains one of these are dense and stored whole",
    )
