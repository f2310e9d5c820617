"""SparseAdapter's pruning before training, of the matrices that another method trains (He et al. 2022)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from replica.methods.base import Context, Method
from replica.methods.peft.start_pruning import counts, prune_at_start
from replica.methods.peft.trainable import head_parameters
from replica.methods.pruning.masks import MASK, add_mask, bake_mask


class SparseModules(Method):
    """Whatever matrices a method before this one trains compute with W * M; M is set once, before training.

    Norms, biases and a new head have no mask. LoRA merges W * M: the pruned weights themselves are zero when training ends.
    """

    def prepare(self, model: Any, context: Context) -> None:
        """Set the masks; raises ConfigError where no matrix can be masked, or one belongs to no layer that computes with a mask."""
        layers = self._trained_matrices(model)
        for name, layer in layers.items():
            add_mask(name, layer, torch.ones_like(layer.weight, dtype=torch.bool))
        if not next(model.parameters()).is_meta:
            prune_at_start(self.config, model, context, layers)

    @torch.no_grad()
    def on_step_end(self, model: Any, context: Context) -> None:
        """Write the zeros into the weights when training ends, before any method's `finalize` reads them."""
        if context.step >= context.total_steps:
            for layer in _masked(model):
                layer.weight.masked_fill_(~getattr(layer, MASK), 0.0)

    def finalize(self, model: Any) -> Any:
        """Take the masks off the remaining modules."""
        for layer in _masked(model):
            bake_mask(layer)
        return model

    def cost(self, model: Any) -> dict[str, int]:
        """Return `prunable` (weights of the trained matrices), `pruned` and `kept`, by the formula."""
        return counts(self.config, self._trained_matrices(model))

    def _trained_matrices(self, model: Any) -> dict[str, nn.Module]:
        """Return the layers whose weight is a trained matrix, by name, without those of a head that is new to the task.

        Raises ConfigError where there is none, and for a trained matrix that belongs to several layers or is no layer's `weight`.
        """
        heads = {id(parameter) for parameter in head_parameters(model, pooler=True)}
        trained = {
            id(p): name
            for name, p in model.named_parameters()
            if p.requires_grad and p.dim() > 1 and id(p) not in heads
        }
        layers: dict[str, nn.Module] = {}
        owners: dict[int, str] = {}
        for name, module in model.named_modules():
            weight = getattr(module, "weight", None)
            if id(weight) in trained and weight.dim() == 2:
                if id(weight) in owners:
                    self.fail(f"'{owners[id(weight)]}' and '{name}' share a trained matrix; it takes no mask")
                owners[id(weight)] = name
                layers[name] = module
        for key, name in trained.items():
            if key not in owners:
                self.fail(f"'{name}' is trained and is no matrix of a layer; it takes no mask")
        if not layers:
            self.fail("no matrix is trained besides the head; put a method that has one first")
        return layers


def _masked(model: Any) -> list[nn.Module]:
    return [module for module in model.modules() if getattr(module, MASK, None) is not None]
