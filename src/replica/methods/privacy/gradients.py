"""Private gradients: each example's is clipped, the sum of a logical batch is noised once and divided by the batch."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from replica.methods.base import NOT_MODEL_INPUTS, Context, Method


class PrivateGradients(Method):
    """g = (sum_i g_i min(1, C / |g_i|) + sigma C N(0, 1)) / B (Yu et al. 2022, Section 3; Abadi et al. 2016, Algorithm 1).

    The norm of g_i is over all trained tensors jointly. Works with any method that decides what is trained. Where a logical batch is
    accumulated from smaller ones, these are clipped and summed, and the noise comes once. The run's own clipping of the gradient's
    norm must be off (`max_grad_norm: 0`): it would come before the noise. What privacy a noise buys is an accountant's to say.
    """

    def prepare(self, model: Any, context: Context) -> None:
        """Start the noise by the run's seed."""
        self.noise = torch.Generator().manual_seed(context.seed)

    def loss(self, model: Any, batch: dict[str, torch.Tensor], context: Context) -> torch.Tensor:
        """Return the mean loss of the batch, whose gradient is the mean of the clipped gradients of its examples.

        Its value is the plain loss; the clipped gradients enter as sum(p - p.detach()) g, which is zero and has the gradient g.
        """
        parameters = [p for p in model.parameters() if p.requires_grad]
        total, losses = clipped_sum(model, batch, context, parameters, self.config.clip)
        mean = torch.stack(losses).mean()
        for parameter, gradient in zip(parameters, total, strict=True):
            mean = mean + ((parameter - parameter.detach()) * (gradient / len(losses))).sum()
        return mean

    def on_gradients(self, model: Any, context: Context) -> None:
        """Add the noise, of standard deviation sigma C / B a coordinate, to the gradient of the logical batch."""
        for parameter in model.parameters():
            if parameter.requires_grad:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                self.add_noise(parameter.grad)

    def add_noise(self, gradient: torch.Tensor) -> None:
        """Add noise of standard deviation sigma C / B to every coordinate of a gradient, in place."""
        draw = torch.empty(gradient.shape).normal_(0.0, self.deviation, generator=self.noise)
        gradient.add_(draw.to(gradient.device, gradient.dtype))

    @property
    def deviation(self) -> float:
        """Standard deviation of the noise on a coordinate of the mean gradient: sigma C / B."""
        return self.config.noise * self.config.clip / self.config.batch

    def cost(self, model: Any) -> dict[str, float]:
        """Return what one step's noise measures on tensors of the trainable parameters' shapes with gradients of zero.

        noise_std (of all coordinates), noise_norm (of all tensors jointly), trained (coordinates).
        """
        squares, total, count = 0.0, 0.0, 0
        for parameter in model.parameters():
            if parameter.requires_grad:
                gradient = torch.zeros(parameter.shape)
                self.add_noise(gradient)
                squares += float(gradient.double().square().sum())
                total += float(gradient.double().sum())
                count += gradient.numel()
        variance = squares / count - (total / count) ** 2 if count else 0.0
        return {"noise_std": math.sqrt(variance), "noise_norm": math.sqrt(squares), "trained": count}


def clipped_sum(
    model: nn.Module, batch: dict[str, torch.Tensor], context: Context, parameters: list[nn.Parameter], clip: float
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Return the sum over examples of their clipped gradients, a tensor for each parameter, and the examples' losses."""
    rows = {key: value for key, value in batch.items() if key not in NOT_MODEL_INPUTS}
    total = [torch.zeros_like(p) for p in parameters]
    losses = []
    for index in range(len(next(iter(rows.values())))):
        loss = context.forward(model, {key: value[index : index + 1] for key, value in rows.items()}).loss
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        norm = torch.sqrt(sum(g.square().sum() for g in gradients if g is not None))
        factor = torch.clamp(clip / norm, max=1.0)
        for kept, gradient in zip(total, gradients, strict=True):
            if gradient is not None:
                kept.add_(gradient * factor)
        losses.append(loss.detach())
    return total, losses
