"""Tuning of the layer norms alone."""

from __future__ import annotations

from typing import Any

from replica.methods.base import Context, Method
from replica.methods.peft.trainable import also_trained, count, train_only


class LayerNormTuning(Method):
    """Only the layer norms (and a new head) are trained."""

    def prepare(self, model: Any, context: Context) -> None:
        """Freeze all but the norms and the head."""
        train_only(model, also_trained(model, self.config))

    def expected(self, model: Any) -> dict[str, float]:
        """Count the norms and the head."""
        return {"trainable_parameters": count(also_trained(model, self.config))}
