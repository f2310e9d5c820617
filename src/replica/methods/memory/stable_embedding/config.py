"""Configuration of `stable-embedding`; read without torch."""

from __future__ import annotations

from pydantic import Field

from replica.methods.registry import MethodConfig, method


@method(
    "stable-embedding",
    version=1,
    changes={"layers"},
    persistent=True,
    excludes={
        "its word embedding takes no mask": "sparse-modules",
    },
)
class StableEmbeddingConfig(MethodConfig):
    """The stable embedding of the 8-bit optimizers' paper: a layer norm after the word embedding, before positions."""

    draw: bool = Field(True, description="draw the words anew by Xavier's uniform rule; false keeps pretrained ones")
