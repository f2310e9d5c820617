"""Errors along the straight line between two states of a network, and what follows: instability, stable, matching (Frankle et al. 2020)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from replica.errors import ConfigError
from replica.meters.batches import make_batch
from replica.meters.semantics import attention
from replica.meters.tracker import AnswerItems

State = Mapping[str, torch.Tensor]

#: Evenly spaced points on the line, its ends among them (section 2).
POINTS = 30
#: A network is stable when its instability is less than so many points of error, and matching when its error is less than so many points
#: above the full network's (section 2).
STABLE_BELOW = 2.0
MATCHING_WITHIN = 0.2


def alphas(points: int = POINTS) -> list[float]:
    """Return evenly spaced numbers from 0 to 1, both among them; raises ConfigError for fewer than two."""
    if points < 2:
        raise ConfigError(f"a line of {points} points has no two ends")
    return [index / (points - 1) for index in range(points)]


def interpolate(first: State, second: State, alpha: float) -> dict[str, torch.Tensor]:
    """Return alpha * first + (1 - alpha) * second of every floating tensor; others (counters) are the first's.

    Raises ConfigError where the states differ in their names or shapes.
    """
    if {name: t.shape for name, t in first.items()} != {name: t.shape for name, t in second.items()}:
        raise ConfigError("the two states are not of the same network: their tensors differ in name or shape")
    return {
        name: alpha * tensor + (1 - alpha) * second[name] if tensor.is_floating_point() else tensor
        for name, tensor in first.items()
    }


def errors_along(
    first: State, second: State, error: Callable[[dict[str, torch.Tensor]], float], points: int = POINTS
) -> list[float]:
    """Return `error` of every state on the line, from `second` (alpha 0) to `first` (alpha 1)."""
    return [error(interpolate(first, second, alpha)) for alpha in alphas(points)]


def instability(errors: list[float]) -> float:
    """Return sup over alpha of E_alpha minus the mean of E at the two ends, in the errors' unit (section 2, equation 1)."""
    return max(errors) - (errors[0] + errors[-1]) / 2


def is_stable(unstable_by: float) -> bool:
    """Say whether an instability, in points of error, is that of a stable network."""
    return unstable_by < STABLE_BELOW


def is_matching(error: float, full_error: float) -> bool:
    """Say whether a subnetwork's error, in points, matches the full network's."""
    return error - full_error < MATCHING_WITHIN


def measure_path(model: nn.Module, points: int = POINTS) -> dict:
    """Walk the line between two states of a model, on meta too, and return what the walk took and what it is judged by.

    `evaluations` (forward passes of an image or a short sentence), `first_alpha`, `last_alpha`, `step`; `interpolated` (numbers that move
    along the line) and `state_bytes` (what a point holds beside the two ends); `stable_below` and `matching_within`: the least instability
    and rise of error in points that `is_stable` and `is_matching` refuse, found by bisection.
    """
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    batch, evaluations, training = make_batch(model, 1, 8, labels=False), 0, model.training

    def count(point: dict[str, torch.Tensor]) -> float:
        nonlocal evaluations
        torch.func.functional_call(model, point, (), batch)
        evaluations += 1
        return 0.0

    model.eval()
    try:
        with torch.no_grad(), attention(model, "eager"), AnswerItems():
            errors_along(state, state, count, points)
    finally:
        model.train(training)
    line = alphas(points)
    return {
        "evaluations": evaluations,
        "first_alpha": line[0],
        "last_alpha": line[-1],
        "step": line[1] - line[0],
        "interpolated": sum(tensor.numel() for tensor in state.values() if tensor.is_floating_point()),
        "state_bytes": sum(tensor.numel() * tensor.element_size() for tensor in state.values()),
        "stable_below": _edge(is_stable),
        "matching_within": _edge(lambda rise: is_matching(rise, 0.0)),
    }


def _edge(holds: Callable[[float], bool], most: float = 100.0) -> float:
    """Return where a rule that holds at 0 and not at `most` stops to hold, to 10 digits."""
    low, high = 0.0, most
    while high - low > 1e-11:
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return round(high, 9)
