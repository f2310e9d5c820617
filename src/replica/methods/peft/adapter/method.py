"""Bottleneck adapters of two full linear layers (Houlsby et al. 2019)."""

from __future__ import annotations

import math
from typing import Any

from replica.methods.base import Context, Method
from replica.methods.peft.bottleneck_adapters import bottleneck, count_trained, insert_adapters, prepare_adapters
from replica.methods.peft.layers import FullLinear
from replica.models.architectures import body


class FullAdapters(Method):
    """y = x + W_up f(W_down x) after the sublayers; the adapters stay in the stored model."""

    def prepare(self, model: Any, context: Context) -> None:
        """Put the adapters in (unless they were restored), drawn by the run's seed, and freeze the rest."""
        prepare_adapters(self, model, context)

    def restore(self, model: Any) -> None:
        """Put adapters into the model; raises ConfigError where some are there or no layer gets one.

        Also for `start: xavier` with a bottleneck as wide as the layers, which could not tell the first layer from the second.
        """
        hidden = body(model).config.hidden_size
        if self.config.start == "xavier" and bottleneck(self, hidden) >= hidden:
            self.fail(f"`start: xavier` needs a bottleneck below the width {hidden} of the layers; use `start: normal`")
        insert_adapters(self, model, self._layer)

    def _layer(self, inputs: int, outputs: int) -> FullLinear:
        """Return one layer of an adapter; the first of its two has the more inputs."""
        config = self.config
        if config.start == "normal":
            return FullLinear(inputs, outputs, config.initial_std)
        return FullLinear(inputs, outputs, math.sqrt(2 / (inputs + outputs)) if inputs > outputs else 0.0)

    def expected(self, model: Any) -> dict[str, float]:
        """Count 2 d m for each adapter, its biases, the norms and a new head."""
        return {"trainable_parameters": count_trained(self, model, lambda hidden, width: hidden * width)}
