"""Gradual magnitude pruning during training (Zafrir et al. 2021, arXiv 2111.05754; schedule of Zhu and Gupta 2017)."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from replica.methods.base import Context, Method
from replica.methods.pruning.gradual_magnitude_pruning import compression
from replica.methods.pruning.gradual_magnitude_pruning.config import GradualMagnitudePruningConfig
from replica.methods.pruning.gradual_magnitude_pruning.schedule import PruningSteps, pruning_steps
from replica.methods.pruning.masks import (
    MASK,
    add_mask,
    bake_mask,
    magnitude_mask,
    maskable_linears,
    pruned_count,
)


class GradualMagnitudePruning(Method):
    """Prunes every linear layer by magnitude, each to the same sparsity, while the model trains.

    A pruned weight has no gradient and keeps its stored value; since masks are chosen over stored values it comes back
    at a later update when kept weights have shrunk below it. `finalize` writes the zeros into the weights.
    """

    config: GradualMagnitudePruningConfig

    def prepare(self, model: PreTrainedModel, context: Context) -> None:
        """Put masks that keep everything on the layers; raises ConfigError for blocks that do not divide a layer."""
        self._steps = pruning_steps(self.config, context.total_steps)
        for name, layer in maskable_linears(model, self.config.exclude).items():
            if self.config.block:
                magnitude_mask(layer.weight, 0.0, self.config.block)
            add_mask(name, layer, torch.ones_like(layer.weight, dtype=torch.bool))

    def on_step_begin(self, model: PreTrainedModel, context: Context) -> None:
        """Choose the masks anew where the schedule says so, by the values stored now."""
        steps: PruningSteps = self._steps
        if not steps.updates_at(context.step):
            return
        sparsity = steps.sparsity(context.step, self.config.sparsity)
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
        """Return what the encoder's linear layers cost at the target sparsity, with `bits` per kept weight."""
        kept = {
            id(layer): layer.weight.numel()
            - pruned_count(layer.weight.numel(), self.config.sparsity, self.config.block)
            for layer in maskable_linears(model, self.config.exclude).values()
        }
        return compression.encoder_compression(model, lambda layer: kept.get(id(layer), layer.weight.numel()), bits)

    def schedule(self, total_steps: int) -> dict[str, float]:
        """Return the schedule in steps for a run of `total_steps`."""
        steps = pruning_steps(self.config, total_steps)
        return {
            "policy_start": steps.start,
            "policy_end": steps.end,
            "last_mask_update": steps.last_update,
            "interval": steps.interval,
            "total": steps.total,
            "initial_sparsity": steps.sparsity(steps.start, self.config.sparsity),
            "final_sparsity": steps.sparsity(steps.last_update, self.config.sparsity),
        }
