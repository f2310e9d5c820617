"""Learning-rate rewinding beside gradual pruning (Zafrir et al. 2021, released code, option --lr_rewind)."""

from __future__ import annotations

from dataclasses import dataclass

from replica.methods.base import Context, Method
from replica.methods.pruning.lr_rewinding.config import LearningRateRewindingConfig


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


class LearningRateRewinding(Method):
    """A saw-tooth learning rate: at every mask update it returns to its peak, after the window it decays to zero."""

    config: LearningRateRewindingConfig

    def learning_rate_factor(self, step: int, context: Context) -> float:
        """Return the factor on the peak rate at `step` (`RewindingSteps.factor`)."""
        return rewinding_steps(self.config, context.total_steps, context.warmup_steps).factor(step)

    def schedule(self, total_steps: int) -> dict[str, float]:
        """Return the schedule in steps for a run of `total_steps` without warm-up."""
        steps = rewinding_steps(self.config, total_steps, 0)
        return {
            "window_start": steps.start,
            "window_end": steps.end,
            "interval": steps.interval,
            "decay_steps": steps.decay,
            "total": total_steps,
        }
