"""Pattern lock: fine-tune a sparse model without losing one of its zeros (Zafrir et al. 2021, arXiv 2111.05754)."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from replica.methods.base import Context, Method
from replica.methods.pruning.masks import MASK, add_mask, bake_mask, layers_to_mask, maskable_linears, masked_layers
from replica.methods.pruning.pattern_lock.config import PatternLockConfig


class PatternLock(Method):
    """Freezes the zeros that the loaded weights have: mask = (w != 0) for every linear layer but heads.

    The mask keeps gradients from the zeros; after every step it is applied to the stored weights too, so that they are
    exactly zero whatever the optimizer does (decay, momentum, noise).
    """

    config: PatternLockConfig

    def prepare(self, model: PreTrainedModel, context: Context) -> None:
        """Read the pattern off the weights and lock it."""
        for name, layer in layers_to_mask(self, model, self.config.exclude).items():
            add_mask(name, layer, layer.weight.detach() != 0)

    def on_step_begin(self, model: PreTrainedModel, context: Context) -> None:
        """Record at the first step how sparse the locked layers are."""
        if context.step == 0:
            masks = [getattr(layer, MASK) for layer in masked_layers(model)]
            weights = sum(mask.numel() for mask in masks)
            context.record(sparsity=1 - float(sum(mask.sum() for mask in masks)) / max(1, weights))

    @torch.no_grad()
    def on_step_end(self, model: PreTrainedModel, context: Context) -> None:
        """Put the locked zeros back, should the optimizer have moved one."""
        for layer in maskable_linears(model, self.config.exclude).values():
            layer.weight.mul_(getattr(layer, MASK))

    def finalize(self, model: PreTrainedModel) -> PreTrainedModel:
        """Return the model without masks; its zeros are in the weights."""
        for layer in maskable_linears(model, self.config.exclude).values():
            bake_mask(layer)
        return model

    def expected(self, model: PreTrainedModel) -> dict[str, float]:
        """Return the total parameters: the lock neither adds nor freezes one, and its zeros depend on the parent."""
        return {"total_parameters": sum(parameter.numel() for parameter in model.parameters())}
