"""Arithmetic of pruning over steps: when masks change, how sparse they are then, how the rate is rewound. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from replica.methods.pruning.config import GradualMagnitudePruningConfig, LearningRateRewindingConfig


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


@dataclass(frozen=True)
class RewindingSteps:
    """A rewinding schedule in optimizer steps; `decay` is N', the steps over which the rate falls to zero."""

    start: int
    end: int
    interval: int
    decay: int
    warmup: int

    def factor(self, step: int) -> float:
        """Return the factor on the peak rate at a step t.

        Warm-up rises linearly to 1. Then, with N' = total - (t1 - t0) and W the warm-up, the factor is (N' - u) / (N' -
        W), where u = t - floor((t - t0) / interval) * interval inside the window (Zafrir et al. 2021, released code), u
        = t before it and u = t - (t1 - t0) after it. Right after a rewind inside or at the end of the window u can be
        less than W, and the factor a little over 1 (50/49 in the published setting).
        """
        if step < self.warmup:
            return step / self.warmup
        if step < self.start:
            counted = step
        elif step < self.end:
            counted = step - (step - self.start) // self.interval * self.interval
        else:
            counted = step - (self.end - self.start)
        return max(0.0, (self.decay - counted) / max(1, self.decay - self.warmup))


def rewinding_steps(config: LearningRateRewindingConfig, total_steps: int, warmup_steps: int) -> RewindingSteps:
    """Turn shares of the steps into steps."""
    start, end = round(config.start * total_steps), round(config.end * total_steps)
    return RewindingSteps(
        start=start,
        end=end,
        interval=max(1, round(config.interval * total_steps)),
        decay=max(1, total_steps - (end - start)),
        warmup=warmup_steps,
    )
