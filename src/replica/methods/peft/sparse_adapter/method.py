"""SparseAdapter: bottleneck adapters whose matrices are pruned before training (He et al. 2022)."""

from __future__ import annotations

from typing import Any

import torch

from replica.methods.base import Context, Method
from replica.methods.peft.bottleneck_adapters import adapters, count_trained, insert_adapters, prepare_adapters
from replica.methods.peft.layers import FullLinear
from replica.methods.peft.start_pruning import counts, prune_at_start
from replica.methods.pruning.masks import add_mask, bake_mask


class SparseAdapters(Method):
    """Bottleneck adapters that compute with W * M; M is set once, before training; biases and norms have none."""

    def prepare(self, model: Any, context: Context) -> None:
        """Put the adapters in, freeze the rest and set the masks; restored adapters keep the zeros that they were stored with."""
        restored = self.name in context.restored
        prepare_adapters(self, model, context)
        layers = self._layers(model)
        for name, layer in layers.items():
            mask = layer.weight.detach() != 0 if restored else torch.ones_like(layer.weight, dtype=torch.bool)
            add_mask(name, layer, mask)
        if not restored and not next(model.parameters()).is_meta:
            prune_at_start(self.config, model, context, layers)

    def restore(self, model: Any) -> None:
        """Put the adapters back, without masks: the stored weights hold the zeros."""
        insert_adapters(self, model, lambda inputs, outputs: FullLinear(inputs, outputs, self.config.initial_std))

    def finalize(self, model: Any) -> Any:
        """Write the zeros into the adapters' weights and take the masks off."""
        for layer in self._layers(model).values():
            bake_mask(layer)
        return model

    def expected(self, model: Any) -> dict[str, float]:
        """Count as for dense adapters: pruned weights stay parameters, whose gradient is zero."""
        return {"trainable_parameters": count_trained(self, model, lambda hidden, width: hidden * width)}

    def cost(self, model: Any) -> dict[str, int]:
        """Return `prunable` (weights of the adapters' matrices), `pruned` and `kept`, by the formula."""
        return counts(self.config, self._layers(model))

    def _layers(self, model: Any) -> dict[str, FullLinear]:
        pairs = enumerate(adapters(self, model))
        return {f"adapter {i}.{part}": getattr(adapter, part) for i, adapter in pairs for part in ("down", "up")}
