"""Learning-rate rewinding beside gradual pruning (Zafrir et al. 2021, released code, option --lr_rewind)."""

from __future__ import annotations

from replica.methods.base import Context, Method
from replica.methods.pruning.config import LearningRateRewindingConfig
from replica.methods.pruning.schedule import rewinding_steps


class LearningRateRewinding(Method):
    """A saw-tooth learning rate: at every mask update it returns to its peak, after the window it decays to zero."""

    config: LearningRateRewindingConfig

    def learning_rate_factor(self, step: int, context: Context) -> float:
        """Return the factor on the peak rate at `step` (`RewindingSteps.factor`)."""
        return rewinding_steps(self.config, context.total_steps, context.warmup_steps).factor(step)

    @staticmethod
    def schedule(config: LearningRateRewindingConfig, total_steps: int) -> dict[str, float]:
        """Return the schedule in steps for a run of `total_steps` without warm-up."""
        steps = rewinding_steps(config, total_steps, 0)
        return {
            "window_start": steps.start,
            "window_end": steps.end,
            "interval": steps.interval,
            "decay_steps": steps.decay,
            "total": total_steps,
        }
