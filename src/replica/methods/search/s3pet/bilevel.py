"""The upper level of the structure search: the gradient of structural parameters through one step of the weights (DARTS)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

#: ||eps dw||: how far the weights are moved to measure a second derivative.
_MOVE = 0.01


def second_order(
    alpha: nn.Parameter,
    weights: list[nn.Parameter],
    train_loss: Callable[[], torch.Tensor],
    held_loss: Callable[[], torch.Tensor],
    moved: Callable[[list[torch.Tensor]], list[torch.Tensor]],
    rate: float,
) -> torch.Tensor:
    """Return d L_held(w', alpha) / d alpha, w' = moved(d L_train / d w) being the weights after a step (Liu et al. 2019, equations 7, 8).

    = dalpha L_held(w') - rate (dalpha L_train(w+) - dalpha L_train(w-)) / (2 eps), w+- = w +- eps dw' L_held(w'), eps = 0.01 / |dw'|.
    The losses are functions of the values of `alpha` and `weights` at each call; the weights are put back to the bit.
    """
    start = [weight.detach().clone() for weight in weights]
    try:
        step = torch.autograd.grad(train_loss(), weights, allow_unused=True, materialize_grads=True)
        _put(weights, moved(list(step)))
        direct, *slopes = torch.autograd.grad(held_loss(), [alpha, *weights], allow_unused=True, materialize_grads=True)
        norm = torch.sqrt(sum(slope.square().sum() for slope in slopes))
        if not norm > 0:
            return direct
        reach = _MOVE / norm
        sides = []
        for sign in (1, -1):
            _put(weights, [w + sign * reach * slope for w, slope in zip(start, slopes, strict=True)])
            sides += torch.autograd.grad(train_loss(), [alpha], allow_unused=True, materialize_grads=True)
        return direct - rate * (sides[0] - sides[1]) / (2 * reach)
    finally:
        _put(weights, start)


def after_adamw(
    weights: list[nn.Parameter], gradients: list[torch.Tensor], optimizer: torch.optim.Optimizer
) -> list[torch.Tensor]:
    """Return the weights after the step that AdamW would take now; neither they nor its state change."""
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    updated = []
    for weight, gradient in zip(weights, gradients, strict=True):
        group, state = groups[id(weight)], optimizer.state.get(weight, {})
        (first, second), step = group["betas"], int(state.get("step", 0)) + 1
        zero = torch.zeros_like(weight)
        mean = state.get("exp_avg", zero).lerp(gradient, 1 - first) / (1 - first**step)
        square = (state.get("exp_avg_sq", zero) * second + (1 - second) * gradient.square()) / (1 - second**step)
        shrunk = weight.detach() * (1 - group["lr"] * group["weight_decay"])
        updated.append(shrunk - group["lr"] * mean / (square.sqrt() + group["eps"]))
    return updated


@torch.no_grad()
def _put(weights: list[nn.Parameter], values: list[torch.Tensor]) -> None:
    for weight, value in zip(weights, values, strict=True):
        weight.copy_(value)
