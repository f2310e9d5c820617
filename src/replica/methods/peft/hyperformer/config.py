"""Configuration of Hyperformer."""

from __future__ import annotations

from pydantic import Field

from replica.methods.peft.shared_options import TrainedOptions
from replica.methods.registry import method


@method("hyperformer", version=2, changes={"modules", "trainable"}, persistent=True)
class HyperformerConfig(TrainedOptions):
    """Hyperformer (Karimi Mahabadi et al. 2021): the weights of all adapters are made from embeddings of task and layer.

    Each stack has its own hypernetwork. Sizes that papers leave out are those of the published code.
    """

    tasks: int = Field(1, ge=1, description="tasks, each with an embedding")
    reduction: int = Field(32, ge=1, description="bottleneck = hidden size / reduction")
    cross_attention: bool = Field(False, description="after the cross-attention of a decoder's layers too")
    embedding: int = Field(512, ge=1, description="t: width of the embeddings of tasks and layers")
    hidden: int = Field(128, ge=1, description="e: width of the net that joins the two")
    projected: int = Field(
        64, ge=1, description="t': width of the net's output, the input of the generators of weights"
    )
    initial_std: float = Field(0.01, ge=0, description="linear layers start as normal(0, this); biases at zero")
    activation: str = Field("gelu_new", description="between the two layers of an adapter, as transformers names it")
