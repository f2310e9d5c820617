"""Masks that are set once, before training: scores of matrices, the lowest of which are pruned (He et al. 2022, Section 3)."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from replica.errors import ConfigError
from replica.methods.base import Context
from replica.methods.peft.layers import Adapter
from replica.methods.peft.shared_options import StartPruningOptions
from replica.methods.pruning.masks import MASK

#: Examples in a batch whose gradient is taken before training.
_BATCH = 32


def pruned_of(config: StartPruningOptions, count: int) -> int:
    """Return how many of `count` weights ranked together are pruned: ceil(sparsity count), with `scope: local` floor."""
    share = config.sparsity * count
    return math.ceil(share - 1e-6) if config.scope == "global" else math.floor(share + 1e-6)


def counts(config: StartPruningOptions, layers: dict[str, nn.Module]) -> dict[str, int]:
    """Return `prunable` (weights of the layers' matrices), `pruned` and `kept`, by the formula."""
    sizes = [layer.weight.numel() for layer in layers.values()]
    pruned = sum(pruned_of(config, size) for size in ([sum(sizes)] if config.scope == "global" else sizes))
    return {"prunable": sum(sizes), "pruned": pruned, "kept": sum(sizes) - pruned}


def prune_at_start(config: StartPruningOptions, model: Any, context: Context, layers: dict[str, nn.Module]) -> None:
    """Score the matrices of layers that have masks and let the masks take away the lowest; among equal ones those that come first.

    The scores that look at data (SNIP, GraSP) take the gradient of the mean loss of `examples` training examples, without dropout.
    Raises ConfigError for a matrix of zeros (any score of it is zero) and for one that the score does not know.
    """
    scores = _scores(config, model, context, layers)
    masked = list(layers.values())
    groups = [range(len(masked))] if config.scope == "global" else [[index] for index in range(len(masked))]
    for group in groups:
        flat = torch.cat([scores[index].flatten() for index in group])
        keep = torch.ones_like(flat, dtype=torch.bool)
        keep[flat.argsort(stable=True)[: pruned_of(config, flat.numel())]] = False
        parts = keep.split([scores[index].numel() for index in group])
        for index, part in zip(group, parts, strict=True):
            getattr(masked[index], MASK).copy_(part.view_as(masked[index].weight))


def _scores(
    config: StartPruningOptions, model: Any, context: Context, layers: dict[str, nn.Module]
) -> list[torch.Tensor]:
    weights = [layer.weight for layer in layers.values()]
    if config.score == "random":
        seeds = torch.Generator().manual_seed(context.seed)
        return [torch.randn(w.shape, generator=seeds).to(w.device) for w in weights]
    for name, weight in zip(layers, weights, strict=True):
        if not bool(weight.detach().any()):
            raise ConfigError(
                f"'{name}' starts at zero, so that every '{config.score}' score of it is zero: give its method an "
                "`initial_std`, or prune by `score: random`"
            )
    if config.score == "magnitude":
        return [weight.detach().abs() for weight in weights]
    if config.score == "synflow":
        return _synaptic_flow(model, layers)
    drawn = context.drawn(config.examples)
    batches = [drawn[i : i + _BATCH] for i in range(0, len(drawn), _BATCH)]
    training = model.training
    model.eval()
    try:
        slopes = _gradient(model, context, weights, batches)
        if config.score == "snip":
            return [(slope * weight).detach().abs() for slope, weight in zip(slopes, weights, strict=True)]
        bent = _gradient(model, context, weights, batches, slopes)
        return [(slope * weight).detach() for slope, weight in zip(bent, weights, strict=True)]
    finally:
        model.train(training)


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
        gradients = torch.autograd.grad(loss, weights, create_graph=direction is not None)
        if direction is not None:
            along = sum((slope * v).sum() for slope, v in zip(gradients, direction, strict=True))
            gradients = torch.autograd.grad(along, weights, allow_unused=True, materialize_grads=True)
        for sums, slope in zip(total, gradients, strict=True):
            sums.add_(slope.detach())
    return total


def _synaptic_flow(model: Any, layers: dict[str, nn.Module]) -> list[torch.Tensor]:
    """Return |dR/dw * w| of each matrix, R the summed output of its adapter, or LoRA pair, for ones with all weights made positive."""
    from peft.tuners.lora import LoraLayer

    flows: dict[int, torch.Tensor] = {}
    for module in model.modules():
        if isinstance(module, Adapter):
            flows |= _flow(module.down, module.up, module.activation)
        elif isinstance(module, LoraLayer):
            for first, second in zip(module.lora_A.values(), module.lora_B.values(), strict=True):
                flows |= _flow(first, second, nn.Identity())
    for name, layer in layers.items():
        if id(layer) not in flows:
            raise ConfigError(f"score 'synflow' knows the matrices of adapters and of LoRA; '{name}' is neither")
    return [flows[id(layer)] for layer in layers.values()]


def _flow(first: nn.Module, second: nn.Module, activation: nn.Module) -> dict[int, torch.Tensor]:
    down, up = first.weight.detach().double().abs(), second.weight.detach().double().abs()
    down.requires_grad_(True)
    up.requires_grad_(True)
    inner = activation(torch.ones(down.shape[1], dtype=down.dtype, device=down.device) @ down.t())
    slopes = torch.autograd.grad((inner @ up.t()).sum(), [down, up])
    scores = [(slope * w).abs().float() for slope, w in zip(slopes, (down.detach(), up.detach()), strict=True)]
    return dict(zip((id(first), id(second)), scores, strict=True))
