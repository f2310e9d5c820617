"""Freezing of the parameters that the configuration names."""

from __future__ import annotations

from typing import Any

from torch import nn

from replica.methods.base import Context, Method
from replica.methods.peft.trainable import count, named_parameters


class Freeze(Method):
    """Named parameters get no gradient; the other parameters train as before."""

    def prepare(self, model: Any, context: Context) -> None:
        """Freeze the parameters that the globs fit; raises ConfigError for a glob that fits none."""
        for parameter in self._frozen(model):
            parameter.requires_grad_(False)

    def expected(self, model: Any) -> dict[str, float]:
        """Count everything but the named parameters, where this is the run's only method that freezes."""
        frozen = {id(parameter) for parameter in self._frozen(model)}
        return {"trainable_parameters": count(p for p in model.parameters() if id(p) not in frozen)}

    def _frozen(self, model: Any) -> list[nn.Parameter]:
        return [p for pattern in self.config.names for p in named_parameters(model, pattern, "names")]
