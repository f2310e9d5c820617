"""Bottleneck adapters whose two matrices are products of low-rank factors."""

from __future__ import annotations

from typing import Any

from replica.methods.base import Context, Method
from replica.methods.peft.bottleneck_adapters import count_trained, insert_adapters, prepare_adapters
from replica.methods.peft.layers import LowRankLinear


class LowRankAdapters(Method):
    """W = W_left W_right in both layers of an adapter."""

    def prepare(self, model: Any, context: Context) -> None:
        """Put the adapters in (unless they were restored), drawn by the run's seed, and freeze the rest."""
        prepare_adapters(self, model, context)

    def restore(self, model: Any) -> None:
        """Put adapters with zero weights into the model; raises ConfigError where some are there or no layer gets one."""
        insert_adapters(self, model, lambda inputs, outputs: LowRankLinear(inputs, outputs, self.config.rank))

    def expected(self, model: Any) -> dict[str, float]:
        """Count 2 r (d + m) for each adapter, its biases, the norms and a new head."""
        rank = self.config.rank
        return {"trainable_parameters": count_trained(self, model, lambda hidden, width: rank * (hidden + width))}
