"""Steps of gradual pruning: when masks change and how sparse they are then."""

from __future__ import annotations

from dataclasses import dataclass

from replica.methods.pruning.gradual_magnitude_pruning.config import GradualMagnitudePruningConfig


@dataclass(frozen=True)
class PruningSteps:
    """A pruning schedule in optimizer steps, counted from 0: growth over [start, end], updates until `last_update`."""

    start: int
    end: int
    last_update: int
    interval: int
    total: int

    def updates_at(self, step: int) -> bool:
        """Whether the masks are recomputed before this step: every `interval` from `start`, and at `last_update`."""
        if not self.start <= step <= self.last_update:
            return False
        return (step - self.start) % self.interval == 0 or step == self.last_update

    def sparsity(self, step: int, final: float) -> float:
        """Return s(t) = s_f (1 - (1 - clip((t - t0) / (t1 - t0), 0, 1))^3); at once s_f where t1 = t0."""
        if step < self.start:
            return 0.0
        if self.end <= self.start:
            return final
        progress = min(1.0, (step - self.start) / (self.end - self.start))
        return final * (1 - (1 - progress) ** 3)


def pruning_steps(config: GradualMagnitudePruningConfig, total_steps: int) -> PruningSteps:
    """Turn shares of the steps into steps.

    The last update is at the latest the last step, and the end at the latest the last update, so that even a run of one
    step ends at its target sparsity.
    """
    last = min(round(config.last_update * total_steps), total_steps - 1)
    return PruningSteps(
        start=min(round(config.start * total_steps), last),
        end=min(round(config.end * total_steps), last),
        last_update=last,
        interval=max(1, round(config.interval * total_steps)),
        total=total_steps,
    )
