"""The straight line between two states of a network, as linear mode connectivity walks it (Frankle et al. 2020)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from replica.errors import ConfigError
from replica.meters.batches import make_batch
from replica.meters.semantics import attention
from replica.meters.tracker import AnswerItems

State = Mapping[str, torch.Tensor]

#: A network is stable when its instability is less than this many points of error, and a subnetwork matches when its error is less than
#: this many points above the full network's (section 2).
STABLE_BELOW = 2.0
MATCHING_WITHIN = 0.2


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


def measure_path(model: nn.Module, points: int = 30) -> dict:
    """Walk `points` evenly spaced points of the line between two states of a model, on meta too, with a forward pass at each.

    Returns the keys of `LinearPathOptions.results`. A pass is of one image or one sentence of 8 tokens.
    """
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    batch, training = make_batch(model, 1, 8, labels=False), model.training
    alphas = [index / (points - 1) for index in range(points)]
    evaluations = 0
    model.eval()
    try:
        with torch.no_grad(), attention(model, "eager"), AnswerItems():
            for alpha in alphas:
                torch.func.functional_call(model, interpolate(state, state, alpha), (), batch)
                evaluations += 1
    finally:
        model.train(training)
    return {
        "evaluations": evaluations,
        "first_alpha": alphas[0],
        "last_alpha": alphas[-1],
        "step": alphas[1] - alphas[0],
        "interpolated": sum(tensor.numel() for tensor in state.values() if tensor.is_floating_point()),
        "state_bytes": sum(tensor.numel() * tensor.element_size() for tensor in state.values()),
        "stable_below": STABLE_BELOW,
        "matching_within": MATCHING_WITHIN,
    }
