"""Configuration of `pattern-lock`; read without torch."""

from __future__ import annotations

from pydantic import Field

from replica.methods.pruning.head_names import HEADS
from replica.methods.registry import MethodConfig, method


@method("pattern-lock", version=2, changes={"masks"}, recorded="sparsity")
class PatternLockConfig(MethodConfig):
    """Fine-tuning of a sparse model whose zeros stay zero (Zafrir et al. 2021)."""

    exclude: tuple[str, ...] = Field(
        HEADS,
        description="linear layers whose name contains one of these are trained in full; a pooler that the parent pruned is locked, "
        "as in the released configuration for GLUE",
    )
