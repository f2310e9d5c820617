"""How a network's sparsity is spread over its layers: uniform, Erdos-Renyi, Erdos-Renyi-kernel. Shapes in, shares out; no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from replica.errors import ConfigError

Distribution = Literal["uniform", "er", "erk"]
Shapes = Mapping[str, Sequence[int]]


def layer_zeros(shapes: Shapes, sparsity: float, distribution: Distribution = "uniform") -> dict[str, int]:
    """Return how many weights of each layer are zero, floor(s_l n_l), by name.

    `shapes` are the weights' shapes with outputs and inputs first, as torch has them: (out, in) or (out, in, height, width). Layers that
    stay dense by decision are left out of it and out of the budget.
    """
    if distribution == "uniform":
        return {name: _floor(sparsity * math.prod(shape)) for name, shape in shapes.items()}
    densities = erdos_renyi(shapes, sparsity, kernel=distribution == "erk")
    return {name: _floor((1 - densities[name]) * math.prod(shape)) for name, shape in shapes.items()}


def erdos_renyi(shapes: Shapes, sparsity: float, *, kernel: bool = True) -> dict[str, float]:
    """Return each layer's density by Erdos-Renyi (Mocanu et al. 2018) or with `kernel` Erdos-Renyi-kernel (Evci et al. 2020, section 3).

    The density of a layer is eps * (sum of its dimensions) / (product of its dimensions), over (out, in) and with `kernel` over all of
    its dimensions. eps makes the whole as sparse as asked: sum_l density_l n_l = sum_l (n_l - floor(S n_l)). A layer whose density would
    exceed 1 is dense instead: the ones with the largest ratio first, the others lose the zeros that these had, and eps is
    solved again. Raises ConfigError for a sparsity that no eps gives.
    """
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    zeros = {name: _floor(sparsity * size) for name, size in sizes.items()}
    raw = {name: _ratio(shape if kernel else shape[:2]) for name, shape in shapes.items()}
    dense: set[str] = set()
    while len(dense) < len(shapes):
        others = [name for name in shapes if name not in dense]
        nonzero = sum(sizes[name] - zeros[name] for name in others) - sum(zeros[name] for name in dense)
        eps = nonzero / sum(raw[name] * sizes[name] for name in others)
        largest = max(raw[name] for name in others)
        if eps * largest <= 1:
            if eps <= 0:
                break
            return {name: 1.0 if name in dense else eps * raw[name] for name in shapes}
        dense |= {name for name in others if raw[name] == largest}
    raise ConfigError(f"no Erdos-Renyi densities give a sparsity of {sparsity} over {len(shapes)} layers")


def _ratio(shape: Sequence[int]) -> float:
    return sum(shape) / math.prod(shape)


def _floor(value: float) -> int:
    """Return the floor, where a product that is a whole number but for the last bit of a float counts as whole."""
    nearest = round(value)
    return nearest if math.isclose(value, nearest, rel_tol=1e-12, abs_tol=1e-9) else math.floor(value)
