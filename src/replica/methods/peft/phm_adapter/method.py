"""Bottleneck adapters of parameterized hypercomplex multiplications (Zhang et al. 2021)."""

from __future__ import annotations

from typing import Any

from replica.methods.base import Context, Method
from replica.methods.peft.bottleneck_adapters import count_trained, insert_adapters, prepare_adapters
from replica.methods.peft.layers import HypercomplexLinear


class HypercomplexAdapters(Method):
    """H = sum_i A_i kron B_i in both layers of an adapter, with an A of its own in each."""

    def prepare(self, model: Any, context: Context) -> None:
        """Put the adapters in (unless they were restored), drawn by the run's seed, and freeze the rest."""
        prepare_adapters(self, model, context)

    def restore(self, model: Any) -> None:
        """Put adapters with zero weights into the model; raises ConfigError where sizes do not fit or some are there."""
        n, std = self.config.n, self.config.rule_std
        insert_adapters(self, model, lambda inputs, outputs: HypercomplexLinear(inputs, outputs, n, std), n)

    def expected(self, model: Any) -> dict[str, float]:
        """Count 2 (n^3 + d m / n) for each adapter, its biases, the norms and a new head."""
        n = self.config.n
        trained = count_trained(self, model, lambda hidden, width: n**3 + n * (hidden // n) * (width // n), n)
        return {"trainable_parameters": trained}
