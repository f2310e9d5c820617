"""Pruning in rounds (iterative magnitude pruning): how sparse each round is, how many are needed, what they cost. No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from replica.errors import ConfigError


@dataclass(frozen=True)
class Rounds:
    """Train, prune `rate` of the weights that are left, start again: `rounds` times (Frankle and Carbin 2019, section 2).

    A round is one training and the cut after it, so that `rounds` trainings lead to the last mask and one more trains its ticket.
    Raises ConfigError for a rate outside (0, 1) or fewer than one round.
    """

    rate: float = 0.2
    rounds: int = 11

    def __post_init__(self) -> None:
        if not 0 < self.rate < 1:
            raise ConfigError(f"a rate of {self.rate} is not in (0, 1)")
        if self.rounds < 1:
            raise ConfigError(f"{self.rounds} rounds: at least one is needed")

    def sparsity(self, number: int) -> float:
        """Return the sparsity after round `number` (0: dense), 1 - (1 - rate)^number."""
        return 1 - (1 - self.rate) ** number

    def kept(self, weights: int) -> list[int]:
        """Return how many of `weights` are left before the first round and after each: whole numbers, each cut rounded by itself."""
        left = [weights]
        for _ in range(self.rounds):
            left.append(left[-1] - round(self.rate * left[-1]))
        return left

    def training_of(self, step: int, total_steps: int) -> tuple[int, int, int]:
        """Return which training (0 to `rounds`) a step belongs to, its first step, and the step after its last.

        `total_steps` are shared out over the rounds and the ticket's own training as evenly as whole steps allow.
        """
        parts = self.rounds + 1
        starts = [part * total_steps // parts for part in range(parts + 1)]
        number = max(part for part in range(parts) if starts[part] <= step)
        return number, starts[number], starts[number + 1]

    def epochs(self, each: float, ticket: bool = False) -> float:
        """Return the epochs of all rounds at `each` per training, with `ticket` also those of the ticket's own."""
        return each * (self.rounds + (1 if ticket else 0))


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
