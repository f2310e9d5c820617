"""SparseAdapter: adapters whose matrices are pruned before training (He et al. 2022)."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from replica.methods.base import Context, Method
from replica.methods.peft.adapters import BottleneckAdapters
from replica.methods.peft.config import SparseAdapterConfig
from replica.methods.peft.layers import Adapter, FullLinear
from replica.methods.pruning.masks import MASK, add_mask, bake_mask

#: Examples in a batch whose gradient is taken before training.
_BATCH = 32


class SparseAdapters(Method):
    """Bottleneck adapters that compute with W * M; M is set once, before training; biases and norms have none.

    The scores that look at data (SNIP, GraSP) take the gradient of the mean loss of `examples` training examples, without dropout. Of the
    n weights of all matrices (`scope: local`: of each) ceil(sparsity n) (local: floor) with the lowest scores are pruned.
    """

    def __init__(self, config: SparseAdapterConfig):
        super().__init__(config)
        self.dense = BottleneckAdapters(config)

    def prepare(self, model: Any, context: Context) -> None:
        """Put the adapters in, freeze the rest and set the masks; restored adapters keep the zeros that they were stored with."""
        self.dense.prepare(model, context)
        restored = "sparse-adapter" in context.restored
        layers = self._layers(model)
        for name, layer in layers.items():
            mask = layer.weight.detach() != 0 if restored else torch.ones_like(layer.weight, dtype=torch.bool)
            add_mask(name, layer, mask)
        if not restored and not next(model.parameters()).is_meta:
            self._prune(model, self._scores(model, context))

    def _scores(self, model: Any, context: Context) -> list[torch.Tensor]:
        layers = list(self._layers(model).values())
        weights = [layer.weight for layer in layers]
        if self.config.score == "magnitude":
            return [weight.detach().abs() for weight in weights]
        if self.config.score == "random":
            seeds = torch.Generator().manual_seed(context.seed)
            return [torch.randn(w.shape, generator=seeds).to(w.device) for w in weights]
        if self.config.score == "synflow":
            return [s for adapter in self.dense.adapters(model) for s in _synaptic_flow(adapter)]
        drawn = context.drawn(self.config.examples)
        batches = [drawn[i : i + _BATCH] for i in range(0, len(drawn), _BATCH)]
        training = model.training
        model.eval()
        try:
            slopes = self._gradient(model, context, weights, batches)
            if self.config.score == "snip":
                return [(slope * weight).detach().abs() for slope, weight in zip(slopes, weights, strict=True)]
            bent = self._gradient(model, context, weights, batches, slopes)
            return [(slope * weight).detach() for slope, weight in zip(bent, weights, strict=True)]
        finally:
            model.train(training)

    @staticmethod
    def _gradient(
        model: Any,
        context: Context,
        weights: list[torch.Tensor],
        batches: list[list[int]],
        direction: list[torch.Tensor] | None = None,
    ) -> list[torch.Tensor]:
        """Return the gradient of the mean loss by the weights; with a direction v, that of gradient . v: the Hessian times v."""
        total = [torch.zeros_like(w) for w in weights]
        count = sum(len(places) for places in batches)
        for places in batches:
            with (
                sdpa_kernel(SDPBackend.MATH) if direction is not None else nullcontext()
            ):  # fused kernels have no second derivative
                loss = context.forward(model, context.examples(places, model)).loss * (len(places) / count)
            found = torch.autograd.grad(loss, weights, create_graph=direction is not None)
            if direction is not None:
                along = sum((slope * v).sum() for slope, v in zip(found, direction, strict=True))
                found = torch.autograd.grad(along, weights, allow_unused=True, materialize_grads=True)
            for kept, slope in zip(total, found, strict=True):
                kept.add_(slope.detach())
        return total

    def restore(self, model: Any) -> None:
        """Put the adapters back, without masks: what is stored has the zeros in its weights."""
        self.dense.restore(model)

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
        layers = list(self._layers(model).values())
        groups = [range(len(layers))] if self.config.scope == "global" else [[index] for index in range(len(layers))]
        for group in groups:
            flat = torch.cat([scores[index].flatten() for index in group])
            keep = torch.ones_like(flat, dtype=torch.bool)
            keep[flat.argsort(stable=True)[: self._pruned(flat.numel())]] = False
            parts = keep.split([scores[index].numel() for index in group])
            for index, part in zip(group, parts, strict=True):
                getattr(layers[index], MASK).copy_(part.view_as(layers[index].weight))


def _synaptic_flow(adapter: Adapter) -> list[torch.Tensor]:
    """Return |dR/dw * w| of an adapter's two matrices, R the sum of its outputs for an input of ones and all weights made positive."""
    down, up = adapter.down.weight.detach().double().abs(), adapter.up.weight.detach().double().abs()
    down.requires_grad_(True)
    up.requires_grad_(True)
    inner = adapter.activation(torch.ones(down.shape[1], dtype=down.dtype, device=down.device) @ down.t())
    slopes = torch.autograd.grad((inner @ up.t()).sum(), [down, up])
    return [(slope * weight).abs().float() for slope, weight in zip(slopes, (down.detach(), up.detach()), strict=True)]
