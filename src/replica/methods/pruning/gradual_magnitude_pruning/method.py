"""Gradual magnitude pruning during training (Zafrir et al. 2021, arXiv 2111.05754; schedule of Zhu and Gupta 2017)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from replica import models
from replica.methods.base import Context, Method
from replica.methods.pruning.gradual_magnitude_pruning.config import GradualMagnitudePruningConfig
from replica.methods.pruning.masks import (
    MASK,
    add_mask,
    bake_mask,
    layers_to_mask,
    magnitude_mask,
    maskable_linears,
    pruned_count,
)

#: Bits of a weight in the dense model.
DENSE_BITS = 32


@dataclass(frozen=True)
class PruningSteps:
    """A pruning schedule in optimizer steps, counted from 0: growth over [start, end], updates until `last_update`."""

    start: int
    end: int
    last_update: int
    interval: int

    def updates_at(self, step: int) -> bool:
        """Whether the masks are recomputed before this step: every `interval` from `start`, and at `last_update`."""
        if not self.start <= step <= self.last_update:
            return False
        return (step - self.start) % self.interval == 0 or step == self.last_update

    def sparsity(self, step: int, final: float) -> float:
        """Return s(t) = s_f (1 - (1 - clip((t - t0) / (t1 - t0), 0, 1))^3); at once s_f where t1 = t0."""
        if step < self.start:
            return 0.0
        if self.end <= self.start:
            return final
        progress = min(1.0, (step - self.start) / (self.end - self.start))
        return final * (1 - (1 - progress) ** 3)


def pruning_steps(config: GradualMagnitudePruningConfig, total_steps: int) -> PruningSteps:
    """Turn shares of the steps into steps.

    The last update is at the latest the last step, and the end at the latest the last update, so that even a run of one
    step ends at its target sparsity.
    """
    last = min(round(config.last_update * total_steps), total_steps - 1)
    return PruningSteps(
        start=min(round(config.start * total_steps), last),
        end=min(round(config.end * total_steps), last),
        last_update=last,
        interval=max(1, round(config.interval * total_steps)),
    )


class GradualMagnitudePruning(Method):
    """Prunes every linear layer by magnitude, each to the same sparsity, while the model trains.

    A pruned weight has no gradient and keeps its stored value; since masks are chosen over stored values it comes back
    at a later update when kept weights have shrunk below it. `finalize` writes the zeros into the weights. A layer loses the nearest
    whole number of weights, and masks are chosen before the step of an update; the released code cuts the number off and chooses after it.
    """

    config: GradualMagnitudePruningConfig

    def prepare(self, model: PreTrainedModel, context: Context) -> None:
        """Put masks that keep everything on the layers; raises ConfigError for blocks that do not divide a layer."""
        self._steps = pruning_steps(self.config, context.total_steps)
        for name, layer in layers_to_mask(self, model, self.config.exclude).items():
            if self.config.block:
                magnitude_mask(layer.weight, 0.0, self.config.block)
            add_mask(name, layer, torch.ones_like(layer.weight, dtype=torch.bool))

    def on_step_begin(self, model: PreTrainedModel, context: Context) -> None:
        """Choose the masks anew at the steps of the schedule, by the stored values."""
        if not self._steps.updates_at(context.step):
            return
        sparsity = self._steps.sparsity(context.step, self.config.sparsity)
        for layer in maskable_linears(model, self.config.exclude).values():
            getattr(layer, MASK).copy_(magnitude_mask(layer.weight, sparsity, self.config.block))
        context.record(sparsity=sparsity)

    def finalize(self, model: PreTrainedModel) -> PreTrainedModel:
        """Return the model with plain linear layers that hold exact zeros."""
        for layer in maskable_linears(model, self.config.exclude).values():
            bake_mask(layer)
        return model

    def expected(self, model: PreTrainedModel) -> dict[str, float]:
        """Return the total parameters, and those that the finished model's pruned matrices leave nonzero."""
        total = sum(parameter.numel() for parameter in model.parameters())
        return {"total_parameters": total, "nonzero_parameters": total - self._pruned(model)}

    def _pruned(self, model: PreTrainedModel) -> int:
        linears = maskable_linears(model, self.config.exclude).values()
        return sum(pruned_count(layer.weight.numel(), self.config.sparsity, self.config.block) for layer in linears)

    def cost(self, model: PreTrainedModel, bits: int = 32) -> dict[str, float]:
        """Return the size of the encoder's linear layers at the target sparsity, with `bits` per kept weight."""
        pruned = {
            id(layer): pruned_count(layer.weight.numel(), self.config.sparsity, self.config.block)
            for layer in maskable_linears(model, self.config.exclude).values()
        }
        return encoder_compression(model, lambda layer: layer.weight.numel() - pruned.get(id(layer), 0), bits)

    def schedule(self, total_steps: int) -> dict[str, float]:
        """Return the schedule in steps for a run of `total_steps`."""
        steps = pruning_steps(self.config, total_steps)
        return {
            "policy_start": steps.start,
            "policy_end": steps.end,
            "last_mask_update": steps.last_update,
            "interval": steps.interval,
            "total": total_steps,
            "initial_sparsity": steps.sparsity(steps.start, self.config.sparsity),
            "final_sparsity": steps.sparsity(steps.last_update, self.config.sparsity),
        }


def compression_ratio(weights: int, stored: int, bits: int = 32, *, dense: int = 0, index_bits: float = 0.0) -> float:
    """Return the bits of the dense fp32 form over those of the compressed form.

    `stored` of `weights` have `bits` each; `dense` further parameters (biases, layer norms) have 32 bits on both sides; `index_bits`
    are added for every position of the matrices (1: a bit mask).
    """
    return (weights + dense) * DENSE_BITS / (stored * bits + weights * index_bits + dense * DENSE_BITS)


def encoder_compression(
    model: nn.Module, stored_weights: Callable[[nn.Linear], int], bits: int = 32
) -> dict[str, float]:
    """Return counts and ratios over the transformer layers of a model (poolers, embeddings and heads left out).

    `stored_weights` counts the weights that are stored of a linear layer. Keys: `linear_weights`, `kept_weights`, `other_parameters`
    (biases and norms of the layers), `values_only_ratio` (kept values alone, as Prune-OFA counts), `with_rest_ratio`
    (biases and norms in fp32 on both sides), `with_mask_ratio` (values and a one-bit mask), `with_mask_and_rest_ratio`.
    """
    layers = models.encoder_layers(model)
    linears = [module for layer in layers for module in layer.modules() if isinstance(module, nn.Linear)]
    weights = sum(layer.weight.numel() for layer in linears)
    stored = sum(stored_weights(layer) for layer in linears)
    other = sum(parameter.numel() for layer in layers for parameter in layer.parameters()) - weights
    return {
        "linear_weights": weights,
        "kept_weights": stored,
        "other_parameters": other,
        "values_only_ratio": compression_ratio(weights, stored, bits),
        "with_rest_ratio": compression_ratio(weights, stored, bits, dense=other),
        "with_mask_ratio": compression_ratio(weights, stored, bits, index_bits=1),
        "with_mask_and_rest_ratio": compression_ratio(weights, stored, bits, dense=other, index_bits=1),
    }
