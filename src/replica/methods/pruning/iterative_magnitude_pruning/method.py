"""Iterative magnitude pruning in rounds (Frankle and Carbin 2019; rewinding: Frankle et al. 2020; repellence: Maene et al. 2021)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from replica.errors import ConfigError
from replica.methods.base import Context, Method
from replica.methods.pruning.iterative_magnitude_pruning.config import IterativeMagnitudePruningConfig
from replica.methods.pruning.masks import (
    LAYERS,
    MASK,
    layers_to_mask,
    lowest,
    maskable_layers,
    masked_layers,
    register_mask,
)

#: Submodule with the weights that every round starts from and the optima of earlier rounds.
SAVED = "iterative_pruning"


@dataclass(frozen=True)
class Rounds:
    """Train, prune `rate` of the weights that are left, start again: `rounds` times (Frankle and Carbin 2019, section 2).

    A round is one training and the cut after it, so that `rounds` trainings lead to the last mask and one more trains its ticket.
    With `rewind` every training but the first goes on from that share of the first one (Frankle et al. 2020).
    """

    rate: float = 0.2
    rounds: int = 11
    rewind: float = 0.0

    def sparsity(self, number: int) -> float:
        """Return the sparsity after round `number` (0: dense), 1 - (1 - rate)^number."""
        return 1 - (1 - self.rate) ** number

    def remaining(self, weights: int) -> list[int]:
        """Return how many of `weights` are left before the first round and after each: whole numbers, each cut rounded by itself."""
        left = [weights]
        for _ in range(self.rounds):
            left.append(left[-1] - round(self.rate * left[-1]))
        return left

    def training_of(self, step: int, total_steps: int) -> tuple[int, int, int]:
        """Return which training (0 to `rounds`) a step belongs to, its first step, and the step after its last.

        `total_steps` are shared out over the rounds and the ticket's own training as evenly as whole steps allow: T for the first
        training, T (1 - rewind) for each other.
        """
        parts, later = self.rounds + 1, 1 - self.rewind
        whole = 1 + self.rounds * later
        starts = (
            [0]
            + [math.floor(total_steps * (1 + (part - 1) * later) / whole) for part in range(1, parts)]
            + [total_steps]
        )
        number = max(part for part in range(parts) if starts[part] <= step)
        return number, starts[number], starts[number + 1]

    def place_of(self, step: int, total_steps: int) -> tuple[int, int]:
        """Return how far a step is in the schedule of its training, k of it left out where the training is a rewound one, and T."""
        number, first, after = self.training_of(step, total_steps)
        skipped = self.rewound_to(total_steps) if number else 0
        return skipped + step - first, skipped + after - first

    def rewound_to(self, total_steps: int) -> int:
        """Return k: the step of the first training whose weights the others start from."""
        return round(self.rewind * self.training_of(0, total_steps)[2])

    def epochs(self, each: float, ticket: bool = False) -> float:
        """Return the epochs of all rounds at `each` per training, with `ticket` also those of the ticket's own."""
        return each * (self.rounds + (1 if ticket else 0))


class IterativeMagnitudePruning(Method):
    """Trains, prunes a share of the weights left, goes back to the same early weights, and starts again.

    Weights without a mask entry are exact zeros; their gradients are masked. All parameters and buffers go back, not only those with a
    mask, and the optimizer forgets. Rewound to step k, a training goes on at step k of the schedule, for T - k steps: the rate does not
    rise again and falls where it fell in the first training. Its batches are the next of the run's, not those after the first training's
    step k. A cut takes round(rate * weights left), where open_lth takes one or two more. With `repel` the loss gets J_r = lambda_r / |O|
    sum_r cos^2(theta * m, theta_r * m) over the optima theta_r of all earlier rounds, m the mask of now (Maene et al. 2021, section 4).
    """

    config: IterativeMagnitudePruningConfig

    def prepare(self, model: PreTrainedModel, context: Context) -> None:
        """Put masks that keep everything on the layers and keep the weights that are there.

        Raises ConfigError where a layer has a mask already.
        """
        layers = layers_to_mask(self, model, self.config.exclude, LAYERS)
        saved = nn.Module()
        for name, tensor in _state(model).items():
            saved.register_buffer(_key(name), tensor.detach().clone())
        if self.config.repel:
            first, count = next(model.parameters()), sum(layer.weight.numel() for layer in layers.values())
            saved.register_buffer("optima", torch.zeros(self.config.rounds, count, device=first.device))
            saved.register_buffer("found", torch.zeros((), dtype=torch.long, device=first.device))
        model.add_module(SAVED, saved)
        for name, layer in layers.items():
            register_mask(name, layer, torch.ones_like(layer.weight, dtype=torch.bool))

    @torch.no_grad()
    def on_step_begin(self, model: PreTrainedModel, context: Context) -> None:
        """Keep the weights where rounds rewind to, and prune and go back to them where a round begins."""
        number, first, _ = self._rounds().training_of(context.step, context.total_steps)
        if number == 0 and context.step == self._rounds().rewound_to(context.total_steps):
            for saved, tensor in self._saved(model):
                saved.copy_(tensor)
        if number and context.step == first:
            self._cut(model, context)

    @torch.no_grad()
    def on_gradients(self, model: PreTrainedModel, context: Context) -> None:
        """Keep gradients from weights that are gone."""
        for layer in masked_layers(model):
            if layer.weight.grad is not None:
                layer.weight.grad.mul_(getattr(layer, MASK))

    @torch.no_grad()
    def on_step_end(self, model: PreTrainedModel, context: Context) -> None:
        """Put the zeros back, should the optimizer have moved one."""
        for layer in masked_layers(model):
            layer.weight.mul_(getattr(layer, MASK))

    def learning_rate_factor(self, step: int, context: Context) -> float:
        """Return the factor on the peak rate: linear warm-up, then a tenth for every share of `decay_at` passed, in each training.

        A training that is rewound to step k goes on with the factor of step k.
        """
        at, length = self._rounds().place_of(min(step, context.total_steps - 1), context.total_steps)
        if at < context.warmup_steps:
            return at / context.warmup_steps
        return 0.1 ** sum(at >= share * length for share in self.config.decay_at)

    def loss(self, model: PreTrainedModel, batch: dict[str, torch.Tensor], context: Context) -> torch.Tensor:
        """Return the task's loss, plus J_r where earlier rounds have left optima."""
        loss = context.forward(model, batch).loss
        saved = getattr(model, SAVED)
        if self.config.repel and int(saved.found):
            layers = masked_layers(model)
            weights = torch.cat([layer.weight.flatten() for layer in layers])
            mask = torch.cat([getattr(layer, MASK).flatten() for layer in layers])
            loss = loss + repulsion(weights, mask, saved.optima[: int(saved.found)], self.config.repel)
        return loss

    def finalize(self, model: PreTrainedModel) -> PreTrainedModel:
        """Return the ticket as trained, without masks and kept weights; its zeros are in the weights."""
        for layer in masked_layers(model):
            delattr(layer, MASK)
        if hasattr(model, SAVED):
            delattr(model, SAVED)
        return model

    def expected(self, model: PreTrainedModel) -> dict[str, float]:
        """Return the total parameters and how many the last round leaves."""
        total = sum(parameter.numel() for parameter in model.parameters())
        weights = self._weights(model)
        return {
            "total_parameters": total,
            "nonzero_parameters": total - weights + self._rounds().remaining(weights)[-1],
        }

    def cost(self, model: PreTrainedModel, epochs: float = 160, target: float = 0.9) -> dict[str, Any]:
        """Return the weights that each round leaves of this model, and the cost of the rounds at `epochs` per training.

        Keys: `weights`, `kept` and `sparsity` by `round-<k>` (whole weights, rounded after each cut), `rounds` and `epochs` (all of them),
        `epochs_with_ticket`, `rounds_to_target` (the least that leave at most 1 - target) and `epochs_to_target`. With `repel` also
        `optima` (how many are kept) and `penalty_at_optimum`: the added loss of weights that lie on an earlier optimum.
        """
        rounds, weights = self._rounds(), self._weights(model)
        remaining = rounds.remaining(weights)
        needed = rounds_to(target, self.config.rate)
        result = {
            "weights": weights,
            "kept": {f"round-{number}": count for number, count in enumerate(remaining)},
            "sparsity": {f"round-{number}": 1 - count / weights for number, count in enumerate(remaining)},
            "rounds": rounds.rounds,
            "epochs": rounds.epochs(epochs),
            "epochs_with_ticket": rounds.epochs(epochs, ticket=True),
            "rounds_to_target": needed,
            "epochs_to_target": Rounds(self.config.rate, needed).epochs(epochs),
        }
        if self.config.repel:
            point = torch.arange(1.0, 9.0)
            result["optima"] = getattr(model, SAVED).optima.shape[0]
            result["penalty_at_optimum"] = float(repulsion(point, point > 2, 3 * point[None], self.config.repel))
        return result

    def _rounds(self) -> Rounds:
        return Rounds(self.config.rate, self.config.rounds, self.config.rewind)

    def _weights(self, model: nn.Module) -> int:
        return sum(layer.weight.numel() for layer in maskable_layers(model, self.config.exclude).values())

    def _saved(self, model: nn.Module) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return each saved tensor with the model's own, for the tensors that `prepare` saw."""
        saved = dict(getattr(model, SAVED).named_buffers())
        return [(saved[_key(name)], tensor) for name, tensor in _state(model).items() if _key(name) in saved]

    def _cut(self, model: nn.Module, context: Context) -> None:
        layers = masked_layers(model)
        saved = getattr(model, SAVED)
        if self.config.repel:
            saved.optima[int(saved.found)] = torch.cat([layer.weight.flatten() for layer in layers])
            saved.found += 1
        for group in [layers] if self.config.reach == "global" else [[layer] for layer in layers]:
            prune_smallest(group, self.config.rate)
        for early, tensor in self._saved(model):
            tensor.copy_(early)
        for layer in layers:
            layer.weight.mul_(getattr(layer, MASK))
        if context.optimizer is not None:
            context.optimizer.state.clear()
        total = sum(getattr(layer, MASK).numel() for layer in layers)
        context.record(sparsity=1 - float(sum(getattr(layer, MASK).sum() for layer in layers)) / total)


def rounds_to(sparsity: float, rate: float = 0.2) -> int:
    """Return the least number of rounds after which at least `sparsity` of the weights are gone.

    Raises ConfigError for a sparsity outside (0, 1).
    """
    if not 0 < sparsity < 1:
        raise ConfigError(f"sparsity {sparsity} is not in (0, 1)")
    number = max(1, math.ceil(math.log(1 - sparsity) / math.log(1 - rate)) - 1)
    while Rounds(rate, number).sparsity(number) < sparsity:
        number += 1
    return number


@torch.no_grad()
def prune_smallest(layers: list[nn.Module], rate: float) -> None:
    """Take `rate` of the weights that the layers' masks leave, those with the least magnitude over all of them, off the masks."""
    magnitudes = [layer.weight.abs().masked_fill(~getattr(layer, MASK), torch.inf) for layer in layers]
    left = sum(int(torch.isfinite(magnitude).sum()) for magnitude in magnitudes)
    for layer, pruned in zip(layers, lowest(magnitudes, round(rate * left)), strict=True):
        getattr(layer, MASK).logical_and_(~pruned)


def repulsion(weights: torch.Tensor, mask: torch.Tensor, optima: torch.Tensor, strength: float) -> torch.Tensor:
    """Return J_r = strength * mean over optima of cos^2(weights * mask, optimum * mask) (Maene et al. 2021, section 4).

    `weights` and `mask` have shape (n,), `optima` (how many, n). A vector of zeros has cosine 0.
    """
    cosine = nn.functional.cosine_similarity((weights * mask)[None], optima * mask, dim=1)
    return strength * cosine.square().mean()


def _state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return every parameter and buffer of the model that a round goes back to, by name."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {
        name: tensor
        for name, tensor in tensors.items()
        if not name.startswith(f"{SAVED}.") and name.rpartition(".")[2] != MASK
    }


def _key(name: str) -> str:
    return "at_" + name.replace(".", "__")
