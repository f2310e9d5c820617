"""FLOPs of a training step of sparse networks, by method (Evci et al. 2020, arXiv 1911.11134, appendix H). No torch.

f_S and f_D are the FLOPs of a sparse and a dense forward pass. A backward pass counts two forward passes: one for the gradient of the
activations and one for that of the weights. Choosing and moving masks costs nothing here.
"""

from __future__ import annotations

from collections.abc import Callable

from replica.errors import ConfigError, nearest
from replica.methods.pruning.gradual_magnitude_pruning.schedule import PruningSteps

#: FLOPs of a step by method: (f_S, f_D, steps between two updates of the masks).
RULES: dict[str, Callable[[float, float, int], float]] = {
    "dense": lambda sparse, dense, interval: 3 * dense,
    "static": lambda sparse, dense, interval: 3 * sparse,
    "set": lambda sparse, dense, interval: 3 * sparse,
    "snfs": lambda sparse, dense, interval: 2 * sparse + dense,
    "rigl": lambda sparse, dense, interval: (3 * sparse * interval + 2 * sparse + dense) / (interval + 1),
}


def step_flops(rule: str, sparse: float, dense: float, interval: int = 100) -> float:
    """Return the mean FLOPs of a training step.

    `static` masks never move; `set` grows at random and needs no dense gradient; `snfs` needs the dense gradient of the weights in every
    step; `rigl` needs it once in interval + 1 steps, as the paper counts, and that updates stop before the end of training is not
    counted. Raises ConfigError for an unknown rule and for an interval below 1.
    """
    if rule not in RULES:
        raise ConfigError(f"no training cost for '{rule}'{nearest(rule, RULES)}")
    if interval < 1:
        raise ConfigError(f"an interval of {interval} steps is no interval")
    return RULES[rule](sparse, dense, interval)


def gradual_step_flops(steps: PruningSteps, final: float, sparse: float, dense: float) -> float:
    """Return the mean FLOPs of a step of gradual pruning: the mean over all steps t of 3 f(s_t).

    `final` is the last sparsity, at which a forward pass costs `sparse`; between it and none the cost is linear in the sparsity, as it is
    when all layers have the same. The masks, and with them s_t, change where the schedule updates them.
    """
    total, now = 0.0, 0.0
    for step in range(steps.total):
        if steps.updates_at(step):
            now = steps.sparsity(step, final)
        total += 3 * (dense - (dense - sparse) * (now / final if final else 0.0))
    return total / steps.total
