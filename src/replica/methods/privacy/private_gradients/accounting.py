"""Epsilon of a run from its noise, and the noise for an epsilon, by opacus' accountants."""

from __future__ import annotations

import math
import warnings

from replica.errors import ConfigError

ACCOUNTANTS = ("prv", "rdp")
#: Above this epsilon the bound of `rdp` is returned for `prv` too, whose grid would take gigabytes; such a run is not private.
_HUGE = 50.0


def spent(noise: float, rate: float, steps: int, delta: float, accountant: str) -> float:
    """Return epsilon after `steps` steps of noise multiplier `noise`, each example being in a batch with chance `rate`.

    `prv` adds up privacy random variables (Gopi et al. 2021), `rdp` Renyi divergences (Mironov 2017; the moments accountant's bound).
    Without noise it is infinite; above 50 both give the bound of `rdp`.
    """
    if noise == 0:
        return math.inf
    if accountant == "prv" and (bound := spent(noise, rate, steps, delta, "rdp")) > _HUGE:
        return bound
    from opacus.accountants import create_accountant

    account = create_accountant(mechanism=accountant)
    account.history = [(noise, rate, steps)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # orders of Renyi's divergence at the end of their range
        return float(account.get_epsilon(delta=delta))


def find_noise(epsilon: float, delta: float, rate: float, steps: int, accountant: str) -> float:
    """Return the noise multiplier with which `steps` steps spend at most epsilon (and no less than 0.01 below it).

    Raises ConfigError where no noise multiplier that opacus tries is enough.
    """
    from opacus.accountants.utils import get_noise_multiplier

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return float(
                get_noise_multiplier(
                    target_epsilon=epsilon, target_delta=delta, sample_rate=rate, steps=steps, accountant=accountant
                )
            )
        except ValueError as error:
            raise ConfigError(
                f"method 'private-gradients': no noise keeps {steps} steps at sampling rate {rate:.3g} to epsilon {epsilon:g}, "
                f"delta {delta:g}: {error}"
            ) from None
