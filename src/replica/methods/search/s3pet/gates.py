"""Gates whose expected number of parameters stays on a budget (Sparse Structure Search)."""

from __future__ import annotations

import torch

from replica.errors import ConfigError


def shift(alpha: torch.Tensor, sizes: torch.Tensor, budget: float, beta: float = 1.0) -> torch.Tensor:
    """Return zeta with sum_i n_i sigmoid((alpha_i - zeta) / beta) = budget, by bisection in float64, without gradient.

    `alpha` and `sizes` have a value for each slot. Raises ConfigError where the budget is not below the sum of all sizes.
    """
    if not 0 < budget < float(sizes.sum()):
        raise ConfigError(
            f"method 's3pet': a budget of {budget:g} parameters must lie between 0 and all slots' {int(sizes.sum())}"
        )
    values, weights = alpha.detach().double(), sizes.double().to(alpha.device)
    low, high = values.min() - 60 * beta, values.max() + 60 * beta
    for _ in range(80):
        middle = (low + high) / 2
        above = (weights * torch.sigmoid((values - middle) / beta)).sum() > budget
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return ((low + high) / 2).to(alpha.dtype)


def probabilities(alpha: torch.Tensor, sizes: torch.Tensor, budget: float, beta: float = 1.0) -> torch.Tensor:
    """Return p_i = sigmoid((alpha_i - zeta) / beta), whose gradient is that of p_i / sum(p) times a constant sum(p).

    The constant keeps the values; the gradient lets slots compete for the budget.
    """
    plain = torch.sigmoid((alpha - shift(alpha, sizes, budget, beta)) / beta)
    return plain / plain.sum() * plain.sum().detach()


def soft_gates(chances: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Return binary concrete samples sigmoid(log(u p / ((1 - u)(1 - p)))) of temperature 1; `uniform` lies in (0, 1)."""
    chances = chances.clamp(1e-6, 1 - 1e-6)
    return torch.sigmoid(torch.log(uniform * chances) - torch.log((1 - uniform) * (1 - chances)))


def choose(chances: torch.Tensor, sizes: torch.Tensor, budget: float) -> torch.Tensor:
    """Return the final structure (a boolean for each slot): by falling probability, every slot that still fits the budget."""
    chosen, left = torch.zeros(len(chances), dtype=torch.bool), budget
    for index in torch.argsort(chances.detach().cpu(), descending=True, stable=True).tolist():
        if float(sizes[index]) <= left:
            chosen[index] = True
            left -= float(sizes[index])
    return chosen
