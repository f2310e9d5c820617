"""Binarizers with their straight-through gradients: weights, signed activations, attention probabilities, and their scales.

Source: Xing et al. 2024 (BiPFT), which takes the elastic binarization of activations from Liu et al. 2022 (BiT) and the weight
binarizer from Rastegari et al. 2016. One bit cannot hold a zero, so sign(0) is +1 here, for weights and activations alike; the
released code has sign(0) = 0, a third value that its 1-bit accounting does not pay for.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.autograd.function import once_differentiable

#: Activation scales never act below this.
SCALE_FLOOR = 1e-5

#: An activation scale starts as this times the mean magnitude of the first training batch.
SIGNED_FACTOR = 2.0
PROBABILITY_FACTOR = 4.0


def signs(values: torch.Tensor, threshold: torch.Tensor | float, dtype: torch.dtype) -> torch.Tensor:
    """Return +1 where a value is at least the threshold, else -1, in `dtype`.

    Comparisons here are made in place on floats: on a processor that is five times faster than by way of bool.
    """
    return values.detach().clone().ge_(threshold).mul_(2).sub_(1).to(dtype)


def weight_binarization(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (threshold, row scales) of W_b = mean|W| * sign(W - mean W): the mean of W, and mean|row| (rows, 1).

    Embeddings are scaled by row, linears by the mean of the row scales, which is mean|W|. The scale is of the uncentred weight.
    """
    weight = weight.detach()
    return weight.mean(), weight.abs().mean(dim=-1, keepdim=True)


def compute_type(tensor: torch.Tensor) -> torch.dtype:
    """Return the type in which products are taken: autocast's where it is on for the tensor's device, else float32."""
    kind = tensor.device.type
    if kind != "meta" and torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return tensor.dtype if tensor.dtype == torch.float64 else torch.float32


class SignedBinarizer(torch.autograd.Function):
    """x_b = alpha * sign(x); dx = g where |x / alpha| <= 1, dalpha = sum(sign(x) * g) / sqrt(number of elements)."""

    @staticmethod
    def forward(ctx, values: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
        """Binarize `values` (any shape) with the scalar `alpha`, floored at SCALE_FLOOR."""
        scale = alpha.detach().clamp(min=SCALE_FLOOR)
        value_signs = signs(values, 0, values.dtype)
        ctx.save_for_backward(value_signs, values.abs().le_(scale))
        return value_signs * scale

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Pass the gradient inside the window, and the scaled one to alpha."""
        value_signs, inside = ctx.saved_tensors
        return gradient * inside, (value_signs * gradient).sum() / math.sqrt(gradient.numel())


class ProbabilityBinarizer(torch.autograd.Function):
    """p_b = alpha * round(clamp(p / alpha, 0, 1)), half to even; dp = g where 0 <= p / alpha <= 1.

    dalpha = sum(s * g) / sqrt(number of elements), with s = 1 above the window and round(p / alpha) - p / alpha inside it
    (the learned step size of Esser et al. 2020).
    """

    @staticmethod
    def forward(ctx, probabilities: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
        """Binarize `probabilities` (any shape) to 0 or the scalar `alpha`, floored at SCALE_FLOOR."""
        scale = alpha.detach().clamp(min=SCALE_FLOOR)
        ratio = probabilities.detach() / scale
        ctx.save_for_backward(ratio)
        return ratio.clamp(0, 1).round_().mul_(scale)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Pass the gradient inside the window, and the scaled one to alpha."""
        (ratio,) = ctx.saved_tensors
        clamped = ratio.clamp(0, 1)
        inside = (clamped == ratio).to(ratio.dtype)
        slope = clamped.round_() - ratio * inside
        return gradient * inside, (slope * gradient).sum() / math.sqrt(gradient.numel())


class BinaryProduct(torch.autograd.Function):
    """y = alpha * mean|W| * (sign(x + shift) sign(W - mean W)^T) + bias, with the binarizers' gradients, in one step.

    The product is of +1 and -1 only, so that in float32 it is an exact integer whatever the order of summation; the two
    scales are applied to it afterwards. Latent weights get the plain identity gradient.
    """

    @staticmethod
    def forward(ctx, values, weight, shift, alpha, bias, dtype):
        """Take (..., in), (out, in), (in,), scalar and (out,) to (..., out); `dtype` is that of the products."""
        threshold, row_scales = weight_binarization(weight)
        weight_signs, weight_scale = signs(weight, threshold, dtype), row_scales.mean()
        shifted = values.detach() + shift.detach()
        scale = alpha.detach().clamp(min=SCALE_FLOOR)
        value_signs = signs(shifted, 0, dtype)
        ctx.save_for_backward(value_signs, shifted.abs_().le_(scale).to(dtype), weight_signs, scale, weight_scale)
        ctx.types = values.dtype, weight.dtype, None if bias is None else bias.dtype
        return scaled_product(value_signs, weight_signs, scale * weight_scale, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        """Return the gradients of values, weight, shift, alpha and bias."""
        value_signs, inside, weight_signs, scale, weight_scale = ctx.saved_tensors
        value_type, weight_type, bias_type = ctx.types
        flat = gradient.reshape(-1, gradient.shape[-1])
        narrow = flat.to(value_signs.dtype)
        flat_signs = value_signs.reshape(-1, value_signs.shape[-1])
        weight = (narrow.mT @ flat_signs).to(weight_type).mul_(scale)
        binary = (narrow @ weight_signs).to(weight_scale.dtype).mul_(weight_scale)
        alpha = (binary * flat_signs).sum() / math.sqrt(binary.numel())
        latent = binary.mul_(inside.reshape(binary.shape))
        bias = None if bias_type is None else flat.sum(0, dtype=bias_type)
        return latent.view(value_signs.shape).to(value_type), weight, latent.sum(0), alpha, bias, None


def scaled_product(
    value_signs: torch.Tensor, weight_signs: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """Return scale * (value_signs weight_signs^T) + bias in at least float32; (..., in) and (out, in) to (..., out)."""
    product = torch.nn.functional.linear(value_signs, weight_signs)
    product = product if product.dtype == torch.float64 else product.float()
    return product * scale if bias is None else torch.addcmul(bias.detach(), product, scale)


class RowBinarizer(torch.autograd.Function):
    """w_b = mean|row| * sign(row - mean W) of embedding rows, with the plain identity gradient."""

    @staticmethod
    def forward(ctx, rows: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
        """Binarize (..., columns) rows with the mean of the whole embedding matrix."""
        return signs(rows, mean, rows.dtype).mul_(rows.abs().mean(dim=-1, keepdim=True))

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Hand the gradient on."""
        return gradient, None


class ActivationScale(nn.Module):
    """A learned scalar alpha that starts as `factor` * mean|x| of the first training batch.

    The buffer `initialised` is stored with the model, so that a loaded or resumed one is not started again. In eval mode,
    before any training batch, a batch's own mean is used and not stored.
    """

    def __init__(self, factor: float, device: torch.device | str):
        super().__init__()
        self.factor = factor
        self.alpha = nn.Parameter(torch.ones((), device=device))
        self.register_buffer("initialised", torch.zeros((), dtype=torch.bool, device=device))
        self._known = False

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return alpha for these values, after setting it by them where they are the first to train on."""
        if self._known or values.is_meta:
            return self.alpha
        if self.initialised:
            self._known = True
            return self.alpha
        start = self._start(values)
        if not self.training:
            return start
        with torch.no_grad():
            self.alpha.copy_(start)
            self.initialised.fill_(True)
        self._known = True
        return self.alpha

    def _start(self, values: torch.Tensor) -> torch.Tensor:
        start = self.factor * values.detach().abs().mean(dtype=self.alpha.dtype)
        if self.training and torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(start)
            start /= torch.distributed.get_world_size()
        return start

    def _load_from_state_dict(self, *args, **kwargs):
        super()._load_from_state_dict(*args, **kwargs)
        self._known = False


class FixedScale(nn.Module):
    """The scalar alpha of a packed model."""

    def __init__(self, alpha: torch.Tensor):
        super().__init__()
        self.register_buffer("alpha", alpha.detach().clone())

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return alpha, whatever the values."""
        return self.alpha
