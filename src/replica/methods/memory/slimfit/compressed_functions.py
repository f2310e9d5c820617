"""Autograd functions whose forward is exact and whose backward reads quantised or pruned activations (SlimFit).

Fixed point has no scale: `fraction` bits follow the point, and values beyond the range are clipped.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional


def to_fixed(x: torch.Tensor, fraction: int = 4) -> torch.Tensor:
    """Return x as 8-bit fixed point (int8): clamp(round(x 2^fraction), -128, 127)."""
    return torch.clamp(torch.round(x * 2**fraction), -128, 127).to(torch.int8)


def from_fixed(codes: torch.Tensor, dtype: torch.dtype, fraction: int = 4) -> torch.Tensor:
    """Return the values of 8-bit fixed point."""
    return codes.to(dtype) / 2**fraction


def to_unsigned(x: torch.Tensor) -> torch.Tensor:
    """Return values of [0, 1] as 8 bits after the point (uint8): clamp(round(256 x), 0, 255)."""
    return torch.clamp(torch.round(x * 256), 0, 255).to(torch.uint8)


def from_unsigned(codes: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return the values of `to_unsigned`."""
    return codes.to(dtype) / 256


def pack_four(x: torch.Tensor) -> torch.Tensor:
    """Return x as 4-bit fixed point, clamp(round(2 x), -8, 7), two to a byte: the flattened halves side by side (uint8)."""
    codes = (torch.clamp(torch.round(x * 2), -8, 7) + 8).to(torch.uint8).flatten()
    half = (codes.numel() + 1) // 2
    low, high = codes[:half], functional.pad(codes[half:], (0, 2 * half - codes.numel()))
    return low | (high << 4)


def unpack_four(packed: torch.Tensor, shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
    """Return the values of `pack_four` in their shape."""
    codes = torch.cat([packed & 15, packed >> 4])[: shape.numel()]
    return ((codes.to(dtype) - 8) / 2).view(shape)


class FourBitGELU(torch.autograd.Function):
    """The exact GELU of x; backward evaluates the exact derivative at x in 4 bits."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        """Compute exactly; save compressed activations."""
        ctx.save_for_backward(pack_four(x))
        ctx.shape = x.shape
        return functional.gelu(x)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        """Return the gradients, from the saved activations."""
        (packed,) = ctx.saved_tensors
        x = unpack_four(packed, ctx.shape, gradient.dtype)
        return torch.ops.aten.gelu_backward(gradient, x, approximate="none")


class QueryKeyProduct(torch.autograd.Function):
    """query key^T of (batch, heads, length, head size); keeps both in 8 bits, 4 after the point."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        """Compute exactly; save compressed activations."""
        ctx.save_for_backward(to_fixed(query), to_fixed(key))
        return query @ key.transpose(-1, -2)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the gradients, from the saved activations."""
        query, key = ctx.saved_tensors
        of_query = gradient @ from_fixed(key, gradient.dtype)
        return of_query, gradient.transpose(-1, -2) @ from_fixed(query, gradient.dtype)


class SoftmaxValueProduct(torch.autograd.Function):
    """softmax(scores) value, fused: keeps the probabilities in 8 bits after the point and the values in 8 bits, 4 after it."""

    @staticmethod
    def forward(ctx: Any, scores: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Compute exactly; save compressed activations."""
        probabilities = torch.softmax(scores, -1)
        ctx.save_for_backward(to_unsigned(probabilities), to_fixed(value))
        return probabilities.to(value.dtype) @ value

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the gradients, from the saved activations."""
        codes, value = ctx.saved_tensors
        probabilities = from_unsigned(codes, gradient.dtype)
        of_value = probabilities.transpose(-1, -2) @ gradient
        of_probabilities = gradient @ from_fixed(value, gradient.dtype).transpose(-1, -2)
        mean = (of_probabilities * probabilities).sum(-1, keepdim=True)
        return probabilities * (of_probabilities - mean), of_value


class PrunedNorm(torch.autograd.Function):
    """Layer norm over the last dimension with a frozen weight.

    Keeps the `density` largest of the normalised values y by magnitude, over the whole tensor, with 32-bit indices, and one standard
    deviation a row; backward is the layer norm's with that sparse y: (g - mean(g) - y mean(g y)) / std, g the weighted gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, epsilon: float, density: float
    ) -> torch.Tensor:
        """Compute exactly; save compressed activations."""
        variance, mean = torch.var_mean(x, -1, correction=0, keepdim=True)
        deviation = torch.sqrt(variance + epsilon)
        normalised = (x - mean) / deviation
        flat = normalised.flatten()
        places = torch.topk(flat.abs(), max(1, int(density * flat.numel())), sorted=False).indices
        ctx.save_for_backward(flat[places], places.to(torch.int32), deviation, weight)
        return normalised * weight + bias

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients, from the saved activations."""
        values, places, deviation, weight = ctx.saved_tensors
        normalised = torch.zeros_like(gradient).flatten()
        normalised[places.long()] = values.to(gradient.dtype)
        normalised = normalised.view(gradient.shape)
        weighted = gradient * weight
        of_input = weighted - weighted.mean(-1, keepdim=True)
        of_input = (of_input - normalised * (weighted * normalised).mean(-1, keepdim=True)) / deviation
        return of_input, None, gradient.flatten(0, -2).sum(0), None, None


class FixedPointProduct(torch.autograd.Function):
    """x weight^T + bias; x is kept in 8 bits, 4 after the point, and only where the weight is trained."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """Compute exactly; save compressed activations."""
        trained = ctx.needs_input_grad[1]
        ctx.save_for_backward(weight, *([to_fixed(x)] if trained else []))
        return functional.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients, from the saved activations."""
        weight, *codes = ctx.saved_tensors
        rows = gradient.flatten(0, -2)
        of_weight = rows.t() @ from_fixed(codes[0], gradient.dtype).flatten(0, -2) if codes else None
        of_bias = rows.sum(0) if ctx.needs_input_grad[2] else None
        return gradient @ weight.to(gradient.dtype), of_weight, of_bias


class SlimGELU(nn.Module):
    """GELU that keeps its input in 4 bits."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return GELU(x)."""
        return FourBitGELU.apply(x)


class SlimNorm(nn.LayerNorm):
    """A layer norm with another's parameters; frozen, it keeps pruned normalised values instead of its input."""

    def __init__(self, source: nn.LayerNorm, density: float):
        nn.Module.__init__(self)
        self.normalized_shape, self.eps = source.normalized_shape, source.eps
        self.elementwise_affine, self.density = True, density
        self.weight, self.bias = source.weight, source.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the norm of x."""
        if self.weight.requires_grad:
            return functional.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return PrunedNorm.apply(x, self.weight, self.bias, self.eps, self.density)


class SlimLinear(nn.Linear):
    """A linear layer with another's parameters that keeps its input in 8 bits while its weight is trained."""

    def __init__(self, source: nn.Linear):
        nn.Module.__init__(self)
        self.in_features, self.out_features = source.in_features, source.out_features
        self.weight, self.bias = source.weight, source.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x weight^T + bias."""
        return FixedPointProduct.apply(x, self.weight, self.bias)


class SlimAttention(nn.Module):
    """Self-attention of BERT or ViT with its linears and both products' operands kept in 8 bits.

    Dropout acts on the values, not on the probabilities, so that softmax and product fuse. `names` are those of the query, key,
    value and (or None) output linear, which keep them.
    """

    def __init__(self, source: nn.Module, names: tuple[str, str, str, str | None], dropout: float):
        super().__init__()
        self.names, self.rate, self.scaling = names, dropout, source.scaling
        self.head_size = getattr(source, "attention_head_size", None) or source.head_dim
        for name in filter(None, names):
            self.add_module(name, getattr(source, name))

    def forward(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, **_: Any) -> tuple:
        """Return the attention's output (batch, length, width) and no probabilities; the mask is added to the scores."""
        shape = (*hidden_states.shape[:-1], -1, self.head_size)
        query, key, value = (getattr(self, name)(hidden_states).view(shape).transpose(1, 2) for name in self.names[:3])
        scores = QueryKeyProduct.apply(query, key) * self.scaling
        if attention_mask is not None and attention_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
        elif attention_mask is not None:
            scores = scores + attention_mask
        if self.training and self.rate:
            value = functional.dropout(value, self.rate, True)
        output = SoftmaxValueProduct.apply(scores, value).transpose(1, 2).flatten(2)
        return (getattr(self, self.names[3])(output) if self.names[3] else output), None
