"""SparseAdapter: adapters, or other trained modules, whose matrices are pruned before training (He et al. 2022)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from replica.errors import ConfigError
from replica.methods.base import Context, Method
from replica.methods.peft.adapters import BottleneckAdapters
from replica.methods.peft.config import SparseAdapterConfig, SparseModulesConfig
from replica.methods.peft.freeze import head_parameters
from replica.methods.peft.layers import FullLinear
from replica.methods.peft.start_masks import counts, prune_at_start
from replica.methods.pruning.masks import MASK, add_mask, bake_mask


class SparseAdapters(Method):
    """Bottleneck adapters that compute with W * M; M is set once, before training; biases and norms have none."""

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
            prune_at_start(self.config, model, context, layers)

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
        return counts(self.config, self._layers(model))

    def _layers(self, model: Any) -> dict[str, FullLinear]:
        pairs = enumerate(self.dense.adapters(model))
        return {f"adapter {i}.{part}": getattr(adapter, part) for i, adapter in pairs for part in ("down", "up")}


class SparseModules(Method):
    """Whatever matrices a method before this one trains compute with W * M; M is set once, before training.

    Norms, biases and a new head have no mask. What LoRA merges is W * M: the pruned weights themselves are zero when training ends.
    """

    config: SparseModulesConfig

    def prepare(self, model: Any, context: Context) -> None:
        """Set the masks; raises ConfigError where nothing can be masked, or a matrix stands in no layer that computes with a mask."""
        layers = trained_matrices(model)
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
        """Take the masks off what is left of the modules."""
        for layer in _masked(model):
            bake_mask(layer)
        return model

    def cost(self, model: Any) -> dict[str, int]:
        """Return `prunable` (weights of the trained matrices), `pruned` and `kept`, by the formula."""
        return counts(self.config, trained_matrices(model))


def trained_matrices(model: Any) -> dict[str, nn.Module]:
    """Return the layers whose weight is a matrix that is trained, by name, without those of a head that is new to the task.

    Raises ConfigError where there is none, and for a trained matrix that belongs to several layers or is no layer's `weight`.
    """
    heads = {id(parameter) for parameter in head_parameters(model, pooler=True)}
    wanted = {
        id(p): name for name, p in model.named_parameters() if p.requires_grad and p.dim() > 1 and id(p) not in heads
    }
    found: dict[str, nn.Module] = {}
    owners: dict[int, str] = {}
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if id(weight) in wanted and weight.dim() == 2:
            if id(weight) in owners:
                raise ConfigError(
                    f"method 'sparse-modules': '{owners[id(weight)]}' and '{name}' share a trained matrix; it takes no mask"
                )
            owners[id(weight)] = name
            found[name] = module
    for key, name in wanted.items():
        if key not in owners:
            raise ConfigError(
                f"method 'sparse-modules': '{name}' is trained and is no matrix of a layer; it takes no mask"
            )
    if not found:
        raise ConfigError(
            "method 'sparse-modules': no matrix is trained besides the head; put a method that has one first"
        )
    return found


def _masked(model: Any) -> list[nn.Module]:
    return [module for module in model.modules() if getattr(module, MASK, None) is not None]
