"""Simulated quantisation: round to an integer grid and back, with gradients passed straight through."""

from __future__ import annotations

import torch
from torch import nn

#: Integer ranges: of weights (int8) and of activations (uint8).
WEIGHT_RANGE = (-128, 127)
ACTIVATION_RANGE = (0, 255)

#: Smallest scale, so that a tensor of zeros divides by something.
EPSILON = torch.finfo(torch.float32).eps


class _FakeQuantize(torch.autograd.Function):
    """x -> (clamp(round(x / s) + z, low, high) - z) * s; the gradient is 1 inside the range and 0 outside."""

    @staticmethod
    def forward(ctx, x, scale, zero_point, low, high):
        grid = torch.round(x * (1.0 / scale)) + zero_point
        ctx.save_for_backward((grid >= low) & (grid <= high))
        return (grid.clamp_(low, high) - zero_point) * scale

    @staticmethod
    def backward(ctx, gradient):
        (inside,) = ctx.saved_tensors
        return gradient * inside, None, None, None, None


def fake_quantize(x: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, low: int, high: int) -> torch.Tensor:
    """Return `x` on the grid of integers [low, high] times `scale`, shifted by `zero_point` (both scalars).

    Ties round to even. Values are those of `torch.fake_quantize_per_tensor_affine`; written out because that has no
    kernel for the meta device and is several times slower on a processor.
    """
    return _FakeQuantize.apply(x, scale, zero_point, low, high)


def weight_scale(weight: torch.Tensor, largest: torch.Tensor | None = None) -> torch.Tensor:
    """Return the symmetric scale of a weight, max|w| / 127.5: [-128, 127] is 255 steps wide and zero maps to 0.

    This is the rule of torch's MinMaxObserver with `per_tensor_symmetric` and the range [-128, 127]. `largest` is a magnitude that
    takes the place of max|w| where it is above 0.
    """
    magnitude = weight.detach().abs().amax().float()
    if largest is not None:
        magnitude = torch.where(largest > 0, largest, magnitude)
    return (magnitude / ((WEIGHT_RANGE[1] - WEIGHT_RANGE[0]) / 2)).clamp_min(EPSILON)


def quantize_weight(weight: torch.Tensor, largest: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a weight as int8 of the same shape, and its scale; `largest` as in `weight_scale`."""
    scale = weight_scale(weight, largest)
    grid = torch.round(weight.detach().float() * (1.0 / scale)).clamp_(*WEIGHT_RANGE)
    return grid.to(torch.int8), scale


def fake_quantize_weight(weight: torch.Tensor, largest: torch.Tensor | None = None) -> torch.Tensor:
    """Return a weight on its int8 grid; zeros stay exactly zero. `largest` as in `weight_scale`."""
    scale = weight_scale(weight, largest)
    return fake_quantize(weight, scale, torch.zeros_like(scale), *WEIGHT_RANGE)


def activation_grid(low: torch.Tensor, high: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return scale and zero point (float scalars) of the uint8 grid over [low, high] widened to hold zero."""
    first, last = ACTIVATION_RANGE
    low, high = low.clamp_max(0.0), high.clamp_min(0.0)
    scale = ((high - low) / (last - first)).clamp_min(EPSILON)
    return scale, (first - torch.round(low / scale)).clamp(first, last)


class RangeObserver(nn.Module):
    """Keeps the moving average of the least and greatest value of an activation and quantises by it.

    The first batch sets the range; later ones move it by `averaging_constant`. Before any batch was seen, the range of
    the tensor at hand is used.
    """

    def __init__(self, averaging_constant: float, device: torch.device | None = None):
        super().__init__()
        self.averaging_constant = averaging_constant
        self.register_buffer("low", torch.full((), float("inf"), device=device))
        self.register_buffer("high", torch.full((), float("-inf"), device=device))

    @property
    def observed(self) -> torch.Tensor:
        """Whether a batch was seen, as a boolean scalar."""
        return self.low <= self.high

    @torch.no_grad()
    def observe(self, x: torch.Tensor) -> None:
        """Move the range towards that of a batch."""
        low, high = torch.aminmax(x.detach())
        seen = self.observed
        self.low.copy_(torch.where(seen, self.low + self.averaging_constant * (low - self.low), low))
        self.high.copy_(torch.where(seen, self.high + self.averaging_constant * (high - self.high), high))

    def grid(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return scale and zero point: of the averaged range, or of `x` before anything was observed."""
        low, high = self.low, self.high
        if not x.is_meta and not bool(self.observed):
            low, high = torch.aminmax(x.detach())
        return activation_grid(low, high)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x` on its uint8 grid; in training the range is moved first."""
        if self.training:
            self.observe(x)
        return fake_quantize(x, *self.grid(x), *ACTIVATION_RANGE)
