"""Learning-rate rewinding for gradual pruning (Zafrir et al. 2021, released code, option --lr_rewind)."""

from __future__ import annotations

from replica.methods.base import Context, Method
from replica.methods.pruning.lr_rewinding.config import LearningRateRewindingConfig


class LearningRateRewinding(Method):
    """A saw-tooth learning rate: at every mask update it returns to its peak, after the window it decays to zero."""

    config: LearningRateRewindingConfig

    def learning_rate_factor(self, step: int, context: Context) -> float:
        """Return the factor on the peak rate at `step`, t.

        Warm-up rises linearly to 1. Then, with N' = total - (t1 - t0) and W the warm-up, the factor is (N' - u) / (N' - W), where
        u = t - floor((t - t0) / interval) * interval inside the window (Zafrir et al. 2021, released code), u = t before it and
        u = t - (t1 - t0) after it. Right after a rewind inside or at the end of the window u can be less than W, and the factor a little
        over 1 (50/49 in the published setting).
        """
        warmup, steps = context.warmup_steps, self.schedule(context.total_steps)
        start, end, decay = steps["window_start"], steps["window_end"], steps["decay_steps"]
        if step < warmup:
            return step / warmup
        if step < start:
            counted = step
        elif step < end:
            counted = step - (step - start) // steps["interval"] * steps["interval"]
        else:
            counted = step - (end - start)
        return max(0.0, (decay - counted) / max(1, decay - warmup))

    def schedule(self, total_steps: int) -> dict[str, int]:
        """Return the schedule in steps for a run of `total_steps`; `decay_steps` is N', over which the rate falls to zero."""
        config = self.config
        start, end = round(config.start * total_steps), round(config.end * total_steps)
        return {
            "window_start": start,
            "window_end": end,
            "interval": max(1, round(config.interval * total_steps)),
            "decay_steps": max(1, total_steps - (end - start)),
            "total": total_steps,
        }
