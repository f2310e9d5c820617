"""Training of a network that is sparse from its first step on: RigL, SET, SNFS and static masks (Evci et al. 2020, arXiv 1911.11134)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from replica.meters.flops import measure_flops
from replica.meters.micronet import count_operations
from replica.meters.options import FlopsOptions, StorageOptions
from replica.meters.storage import storage_bytes
from replica.methods.base import Context, Method
from replica.methods.pruning.masks import LAYERS, MASK, layers_to_mask, maskable_layers, masked_layers, register_mask
from replica.methods.pruning.sparse_training.config import SparseTrainingConfig
from replica.methods.pruning.sparse_training.densities import layer_zeros

#: Buffer on a masked layer: the mean of dense gradients by which SNFS grows.
MOMENTUM = "weight_gradient_mean"

#: Mean FLOPs of a training step by method, from (f_S, f_D, steps between two updates of the masks): f_S and f_D are the FLOPs of a
#: sparse and a dense forward pass, a backward pass counts two forward passes (gradients of activations and of weights), and updates of
#: masks are free (Evci et al. 2020, appendix H). SNFS needs the dense gradient of the weights in every step, RigL once in interval + 1
#: steps, as the paper counts; that updates stop before the end of training is not counted.
STEP_FLOPS: dict[str, Callable[[float, float, int], float]] = {
    "dense": lambda sparse, dense, interval: 3 * dense,
    "static": lambda sparse, dense, interval: 3 * sparse,
    "set": lambda sparse, dense, interval: 3 * sparse,
    "snfs": lambda sparse, dense, interval: 2 * sparse + dense,
    "rigl": lambda sparse, dense, interval: (3 * sparse * interval + 2 * sparse + dense) / (interval + 1),
}


class SparseTraining(Method):
    """Holds every layer at its number of weights and now and then exchanges some of them.

    Weights without a mask entry are exact zeros at all times, so that the model's own layers compute the masked product and the
    gradient that arrives is the dense one; after masks are updated it is masked too. An update keeps the n_active - k largest |w| of a
    layer and grows k of all other positions, the ones just dropped among them: k = int(f(t) n_active), f(t) = alpha/2 (1 + cos(pi t /
    T_end)) (section 3). RigL's update takes the place of the step's weight update (and counts as a step of the schedule, as in
    Algorithm 1; the released code does not count it); SET and SNFS update before the step.
    A weight that grows starts at 0 and its optimizer state at 0; one dropped and grown at once keeps both.
    """

    config: SparseTrainingConfig

    def prepare(self, model: PreTrainedModel, context: Context) -> None:
        """Draw a mask with its exact number of zeros for each layer; raises ConfigError where a layer has one already."""
        self._last = round(self.config.end * context.total_steps)
        layers = layers_to_mask(self, model, self.config.dense, LAYERS)
        generator = torch.Generator().manual_seed(context.seed)
        for name, zeros in self._zeros(layers).items():
            layer = layers[name]
            register_mask(name, layer, _random_mask(layer.weight, zeros, generator))
            if self.config.update == "snfs":
                layer.register_buffer(MOMENTUM, torch.zeros_like(layer.weight))
            _apply(layer)

    def on_step_begin(self, model: PreTrainedModel, context: Context) -> None:
        """Exchange weights where SET or SNFS does."""
        if self.config.update in ("set", "snfs") and self._updates_at(context.step):
            self._exchange(model, context)

    @torch.no_grad()
    def on_gradients(self, model: PreTrainedModel, context: Context) -> None:
        """Exchange weights where RigL does and leave out the step's weight update; else mask the gradients."""
        layers = masked_layers(model)
        if self.config.update == "snfs":
            for layer in layers:
                mean = getattr(layer, MOMENTUM)
                mean.mul_(self.config.momentum).add_(layer.weight.grad, alpha=1 - self.config.momentum)
        if self.config.update == "rigl" and self._updates_at(context.step):
            self._exchange(model, context)
            for parameter in model.parameters():
                parameter.grad = None
            return
        for layer in layers:
            if layer.weight.grad is not None:
                layer.weight.grad.mul_(getattr(layer, MASK))

    def on_step_end(self, model: PreTrainedModel, context: Context) -> None:
        """Put the zeros back, should the optimizer have moved one by its momentum."""
        for layer in masked_layers(model):
            _apply(layer)

    def finalize(self, model: PreTrainedModel) -> PreTrainedModel:
        """Return the model without masks; its zeros are in the weights."""
        for layer in masked_layers(model):
            _apply(layer)
            for name in (MASK, MOMENTUM):
                if getattr(layer, name, None) is not None:
                    delattr(layer, name)
        return model

    def expected(self, model: PreTrainedModel) -> dict[str, float]:
        """Return the total parameters and how many of them the masks leave."""
        total = sum(parameter.numel() for parameter in model.parameters())
        zeros = sum(self._zeros(maskable_layers(model, self.config.dense)).values())
        return {"total_parameters": total, "nonzero_parameters": total - zeros}

    def cost(
        self,
        model: PreTrainedModel,
        batch: int = 1,
        length: int = 128,
        exclude: tuple[str, ...] = (),
        padded_twice: tuple[str, ...] | None = None,
    ) -> dict[str, Any]:
        """Return the FLOPs and the storage of the sparse model.

        Keys: `layers`, `dense_layers` (with a mask that keeps all), `weights`, `kept_weights`, `density` (of the masked layers),
        `least_density`, `most_density`; `flops`, `sparse_flops`, `flops_ratio` of a forward pass; `mb`, `dense_mb` (4 bytes a kept
        value, one bit a position of a sparse layer; parameters that fit `exclude` left out); `training`: the FLOPs of a step by method
        as a share of a dense step (f_S / f_D as measured, 3 forward passes a step), `training_ratio` of this method. With
        `padded_twice` (parts of names of convolutions, or none of them: `[]`) also `micronet`: `flops`, `sparse_flops`, `flops_ratio`,
        `training` and `training_ratio` as RigL's released notebook counts (`count_operations`).
        """
        layers = maskable_layers(model, self.config.dense)
        zeros = self._zeros(layers)
        sizes = {name: layers[name].weight.numel() for name in zeros}
        shares = {f"{name}.weight": (sizes[name] - zeros[name]) / sizes[name] for name in zeros}
        flops = measure_flops(model, FlopsOptions(batch=batch, length=length, density=shares))
        size = storage_bytes(model, StorageOptions(density=shares, index="mask", exclude=list(exclude)))
        released = {}
        if padded_twice is not None:
            counted = count_operations(model, shares, batch, length, tuple(padded_twice))
            released = {"micronet": self._operations(counted["sparse_flops"], counted["flops"])}
        return {
            "layers": len(zeros),
            "dense_layers": sum(not count for count in zeros.values()),
            "weights": sum(sizes.values()),
            "kept_weights": sum(sizes.values()) - sum(zeros.values()),
            "density": 1 - sum(zeros.values()) / sum(sizes.values()),
            "least_density": min(shares.values()),
            "most_density": max(shares.values()),
            "mb": size["mb"],
            "dense_mb": size["baseline_mb"],
            **self._operations(flops["sparse_forward"], flops["forward"]),
            **released,
        }

    def _operations(self, sparse: float, dense: float) -> dict[str, Any]:
        """Return a forward pass of each kind, and the steps of training that follow from them."""
        training = {name: f(sparse, dense, self.config.interval) / (3 * dense) for name, f in STEP_FLOPS.items()}
        return {
            "flops": dense,
            "sparse_flops": sparse,
            "flops_ratio": sparse / dense,
            "training": training,
            "training_ratio": training[self.config.update],
        }

    def _zeros(self, layers: dict[str, nn.Module]) -> dict[str, int]:
        shapes = {name: tuple(layer.weight.shape) for name, layer in layers.items()}
        return layer_zeros(shapes, self.config.sparsity, self.config.distribution)

    def _updates_at(self, step: int) -> bool:
        first, interval = self.config.interval, self.config.interval
        if self.config.first_update == "start":
            first = 0 if self.config.update == "rigl" else 1
        return first <= step <= self._last and (step - first) % interval == 0

    def _exchange(self, model: nn.Module, context: Context) -> None:
        share = self.config.drop / 2 * (1 + math.cos(math.pi * context.step / self._last))
        generator = torch.Generator().manual_seed(context.seed * 1_000_003 + context.step)
        for layer in masked_layers(model):
            score = {"rigl": layer.weight.grad, "snfs": getattr(layer, MOMENTUM, None), "set": None}[self.config.update]
            if score is None:
                score = torch.rand(layer.weight.shape, generator=generator).to(layer.weight.device)
            grown = exchange(layer, score, share)
            _forget(context.optimizer, layer.weight, grown)
        context.record(drop_share=share)


@torch.no_grad()
def exchange(layer: nn.Module, score: torch.Tensor, share: float) -> torch.Tensor:
    """Drop int(share * active) weights of a layer with the least magnitude, grow as many where |score| is largest, in place.

    Returns the mask of the positions that were inactive and grew, of the weight's shape. Among equal magnitudes the choice is `topk`'s.
    """
    mask = getattr(layer, MASK)
    active = int(mask.sum())
    moved = int(share * active)
    magnitude = layer.weight.abs().masked_fill(~mask, -1.0).flatten()
    survivors = torch.zeros_like(magnitude, dtype=torch.bool)
    survivors[magnitude.topk(active - moved).indices] = True
    wanted = score.abs().flatten().masked_fill(survivors, -1.0)
    new = survivors.clone()
    new[wanted.topk(moved).indices] = True
    grown = new.view_as(mask) & ~mask
    mask.copy_(new.view_as(mask))
    _apply(layer)
    return grown


def _forget(optimizer: Any, weight: nn.Parameter, positions: torch.Tensor) -> None:
    """Set an optimizer's state of a weight to zero at some positions, where there is an optimizer that has one."""
    state = optimizer.state.get(weight, {}) if optimizer is not None else {}
    for value in state.values():
        if isinstance(value, torch.Tensor) and value.shape == weight.shape:
            value.masked_fill_(positions, 0.0)


def _random_mask(weight: torch.Tensor, zeros: int, generator: torch.Generator) -> torch.Tensor:
    if weight.is_meta:
        return torch.ones_like(weight, dtype=torch.bool)
    mask = torch.ones(weight.numel(), dtype=torch.bool)
    mask[torch.randperm(weight.numel(), generator=generator)[:zeros]] = False
    return mask.view(weight.shape).to(weight.device)


@torch.no_grad()
def _apply(layer: nn.Module) -> None:
    layer.weight.mul_(getattr(layer, MASK))
