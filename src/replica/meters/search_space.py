"""Spaces of shapes that an architecture search goes through: how many there are, and their least and greatest cost. No torch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction

from replica.errors import ConfigError

Shape = dict[str, float]


class SearchSpace:
    """Every combination of one value for each of several numbers (layers, width, …).

    `ranges` maps a number's name to (lowest, highest, step). Raises ConfigError for a range that its steps do not fill.
    """

    def __init__(self, ranges: Mapping[str, Sequence[float]]):
        self.values: dict[str, list[float]] = {}
        for name, bounds in ranges.items():
            if len(bounds) != 3:
                raise ConfigError(f"search space: '{name}' needs (lowest, highest, step), got {list(bounds)}")
            low, high, step = (Fraction(str(number)) for number in bounds)
            if step <= 0 or high < low or (high - low) % step:
                raise ConfigError(f"search space: '{name}' does not go from {bounds[0]} to {bounds[1]} by {bounds[2]}")
            self.values[name] = [float(low + index * step) for index in range(int((high - low) / step) + 1)]

    def count(self) -> int:
        """Return how many shapes there are: the product of how many values each number has."""
        return math.prod(len(values) for values in self.values.values())

    def shapes(self) -> Iterator[Shape]:
        """Yield every shape, the last number changing fastest."""
        for chosen in itertools.product(*self.values.values()):
            yield dict(zip(self.values, chosen, strict=True))

    def extremes(self, cost: Callable[[Shape], float]) -> tuple[Shape, Shape]:
        """Return the shapes of least and of greatest cost, by looking at all of them."""
        shapes = list(self.shapes())
        return min(shapes, key=cost), max(shapes, key=cost)


def encoder_parameters(shape: Shape) -> float:
    """Return the parameters of a BERT encoder of a shape, by the cost function of AutoDistil (Xu et al. 2022, released code).

    H * 31038 (words, positions, types, norm) + L (H^2 + 3 H^2 A / 12 + 6 H) + L (2 r H^2 + r H + 3 H) + H^2 + 2 H, with L `layers`, H
    `hidden`, r `ratio` of the feed-forward width and A `heads`, each charged H / 12.
    """
    layers, hidden, ratio, heads = shape["layers"], shape["hidden"], shape["ratio"], shape["heads"]
    attention = hidden**2 + 3 * hidden**2 * heads / 12 + 6 * hidden
    feed_forward = 2 * ratio * hidden**2 + ratio * hidden + 3 * hidden
    return hidden * 31038 + layers * (attention + feed_forward) + hidden**2 + 2 * hidden


def encoder_macs(shape: Shape, length: int = 128) -> float:
    """Return the multiply-adds of the layers for one sentence: projections and feed-forward, and both products of attention.

    Per layer n H^2 (1 + 3 A / 12) + 2 r n H^2 + 2 n^2 H A / 12 for n tokens, with heads charged as in `encoder_parameters`.
    """
    layers, hidden, ratio, share = shape["layers"], shape["hidden"], shape["ratio"], shape["heads"] / 12
    projections = length * hidden**2 * (1 + 3 * share)
    return layers * (projections + 2 * ratio * length * hidden**2 + 2 * length**2 * hidden * share)


#: The costs of a shape, by name.
COSTS: dict[str, Callable[[Shape], float]] = {"encoder_parameters": encoder_parameters, "encoder_macs": encoder_macs}
_NEEDED = {"layers", "hidden", "ratio", "heads"}


def measure_space(ranges: Mapping[str, Sequence[float]]) -> dict:
    """Return `count` (closed form), `enumerated` (shapes that differ, one by one) and `values` by number.

    Where the numbers are those of an encoder (layers, hidden, ratio, heads) also `encoder_parameters` and `encoder_macs`, each with `least`
    and `most` over all shapes.
    """
    space = SearchSpace(ranges)
    result: dict = {
        "count": space.count(),
        "enumerated": len({tuple(shape.values()) for shape in space.shapes()}),
        "values": {name: len(values) for name, values in space.values.items()},
    }
    if set(ranges) == _NEEDED:
        for name, cost in COSTS.items():
            least, most = space.extremes(cost)
            result[name] = {"least": cost(least), "most": cost(most)}
    return result
