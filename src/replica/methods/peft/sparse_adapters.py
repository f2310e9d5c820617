"""SparseAdapter: adapters whose matrices are pruned before training (He et al. 2022)."""

from __future__ import annotations

import math
from typing import Any

import torch

from replica.methods.base import Context, Method
from replica.methods.peft.adapters import BottleneckAdapters
from replica.methods.peft.config import SparseAdapterConfig
from replica.methods.peft.layers import FullLinear
from replica.methods.pruning.masks import MASK, add_mask, bake_mask


class SparseAdapters(Method):
    """Bottleneck adapters that compute with W * M; M is set once, biases and norms have none.

    By `magnitude` or `random` the masks are set when the adapters are put in. `snip` (Lee et al. 2019) needs a gradient: the masks are
    all ones until that of the first batch is complete, and are set by |dL/dM| = |dL/dW * W| before the optimizer uses it. Of the n
    weights of all matrices (`scope: local`: of each) ceil(sparsity n) (local: floor) are pruned.
    """

    def __init__(self, config: SparseAdapterConfig):
        super().__init__(config)
        self.dense = BottleneckAdapters(config)

    def prepare(self, model: Any, context: Context) -> None:
        """Put the adapters in and freeze the rest; restored adapters keep the zeros that they were stored with."""
        self.dense.prepare(model, context)
        restored = "sparse-adapter" in context.restored
        layers = self._layers(model)
        for name, layer in layers.items():
            mask = layer.weight.detach() != 0 if restored else torch.ones_like(layer.weight, dtype=torch.bool)
            add_mask(name, layer, mask)
        if restored or self.config.score == "snip":
            return
        seeds = torch.Generator().manual_seed(context.seed)
        if self.config.score == "magnitude":
            self._prune(model, [layer.weight.detach().abs() for layer in layers.values()])
        elif not next(model.parameters()).is_meta:
            drawn = [torch.rand(layer.weight.shape, generator=seeds) for layer in layers.values()]
            self._prune(
                model, [scores.to(layer.weight.device) for scores, layer in zip(drawn, layers.values(), strict=True)]
            )

    def restore(self, model: Any) -> None:
        """Put the adapters back, without masks: what is stored has the zeros in its weights."""
        self.dense.restore(model)

    @torch.no_grad()
    def on_gradients(self, model: Any, context: Context) -> None:
        """At the first step, set the masks by SNIP and take the pruned weights' gradients away."""
        if self.config.score != "snip" or context.step > 0 or "sparse-adapter" in context.restored:
            return
        layers = self._layers(model).values()
        self._prune(model, [(layer.weight.grad * layer.weight).abs() for layer in layers])
        for layer in layers:
            layer.weight.grad.mul_(getattr(layer, MASK))

    def finalize(self, model: Any) -> Any:
        """Write the zeros into the adapters' weights and take the masks off."""
        for layer in self._layers(model).values():
            bake_mask(layer)
        return model

    def expected(self, model: Any) -> dict[str, float]:
        """Count as for dense adapters: pruned weights stay parameters, whose gradient is zero."""
        return self.dense.expected(model)

    def cost(self, model: Any) -> dict[str, int]:
        """Return `prunable` (weights of the adapters' matrices), `pruned` and `kept`, by the formula."""
        sizes = [layer.weight.numel() for layer in self._layers(model).values()]
        pruned = sum(self._pruned(size) for size in ([sum(sizes)] if self.config.scope == "global" else sizes))
        return {"prunable": sum(sizes), "pruned": pruned, "kept": sum(sizes) - pruned}

    def _pruned(self, count: int) -> int:
        share = self.config.sparsity * count
        return math.ceil(share - 1e-6) if self.config.scope == "global" else math.floor(share + 1e-6)

    def _layers(self, model: Any) -> dict[str, FullLinear]:
        pairs = enumerate(self.dense.adapters(model))
        return {f"adapter {i}.{part}": getattr(adapter, part) for i, adapter in pairs for part in ("down", "up")}

    @torch.no_grad()
    def _prune(self, model: Any, scores: list[torch.Tensor]) -> None:
        """Set the masks to take away the lowest scores; among equal ones those that come first."""
        if scores[0].is_meta:
            return
        layers = list(self._layers(model).values())
        groups = [range(len(layers))] if self.config.scope == "global" else [[index] for index in range(len(layers))]
        for group in groups:
            flat = torch.cat([scores[index].flatten() for index in group])
            keep = torch.ones_like(flat, dtype=torch.bool)
            keep[flat.argsort(stable=True)[: self._pruned(flat.numel())]] = False
            parts = keep.split([scores[index].numel() for index in group])
            for index, part in zip(group, parts, strict=True):
                getattr(layers[index], MASK).copy_(part.view_as(layers[index].weight))
