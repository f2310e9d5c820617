"""Linear layers of a quantised model: one that simulates int8 while training, one that stores it."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from replica.errors import ConfigError
from replica.methods.pruning.masks import MaskedLinear, bake_mask, masked_weight
from replica.methods.quantization.quantization_aware_training.fake_quantize import (
    ACTIVATION_RANGE,
    RangeObserver,
    activation_grid,
    fake_quantize,
    fake_quantize_weight,
    quantize_weight,
)
from replica.methods.quantization.quantization_aware_training.packed_int8 import pack, packed_bytes, unpack


class QuantizedLinear(nn.Linear):
    """A linear layer that computes in fp32 with input, weight and (unless plain) output on their int8 grids.

    The fp32 weight is trained. A mask on the layer (`weight_mask`) is applied before quantisation. `active` is
    off until the method's start step; then the layer computes like the one it came from. `largest_weight`, where the layer has
    it, is the largest magnitude that the weight had at any training pass.
    """

    honours_mask = True

    input_range: RangeObserver
    output_range: RangeObserver | None
    largest_weight: torch.Tensor | None
    active: bool

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Map (…, in_features) to (…, out_features), in fp32 also under autocast once active."""
        if not self.active:
            return functional.linear(input, masked_weight(self), self.bias)
        with torch.autocast(_autocast_device(input), enabled=False):
            weight = masked_weight(self).float()
            if self.training and self.largest_weight is not None:
                self.largest_weight.copy_(torch.maximum(self.largest_weight, weight.detach().abs().amax()))
            weight = fake_quantize_weight(weight, self.largest_weight)
            output = functional.linear(self.input_range(input.float()), weight, self.bias)
            return output if self.output_range is None else self.output_range(output)


def to_quantized(
    layer: nn.Linear, name: str, averaging_constant: float, plain_output: bool, keep_largest: bool = False
) -> None:
    """Make a linear layer simulate int8, in place; its weight stays the same parameter under the same name.

    Raises ConfigError for a kind of linear layer that other code has replaced already.
    """
    if type(layer) not in (nn.Linear, MaskedLinear):
        raise ConfigError(f"layer '{name}' is a {type(layer).__name__}, which cannot be quantised; exclude it")
    layer.__class__ = QuantizedLinear
    layer.active = True
    layer.input_range = RangeObserver(averaging_constant, layer.weight.device)
    layer.output_range = None if plain_output else RangeObserver(averaging_constant, layer.weight.device)
    layer.register_buffer("largest_weight", torch.zeros((), device=layer.weight.device) if keep_largest else None)


class Int8Linear(nn.Module):
    """A linear layer that holds its weight in int8 and computes as the simulated one did.

    Buffers: `weight_int8` (out, in), or `weight_values` (capacity,) int8 and `weight_bits` (ceil(out * in / 8),) uint8
    when packed; `weight_scale`; `input_scale`, `input_zero_point` and, unless the output is plain, `output_scale` and
    `output_zero_point`. A scale of 0 means that no range was observed: that of the input is used.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool,
        plain_output: bool,
        density: float | None = None,
        device: torch.device | None = None,
    ):
        super().__init__()
        self.in_features, self.out_features, self.density = in_features, out_features, density
        count = in_features * out_features
        if density is None:
            self.register_buffer("weight_int8", torch.zeros(out_features, in_features, dtype=torch.int8, device=device))
        else:
            values, bits = packed_bytes(count, density)
            self.register_buffer("weight_values", torch.zeros(values, dtype=torch.int8, device=device))
            self.register_buffer("weight_bits", torch.zeros(bits, dtype=torch.uint8, device=device))
        self.register_buffer("weight_scale", torch.ones((), device=device))
        for side in ("input",) if plain_output else ("input", "output"):
            self.register_buffer(f"{side}_scale", torch.zeros((), device=device))
            self.register_buffer(f"{side}_zero_point", torch.zeros((), dtype=torch.uint8, device=device))
        self.plain_output = plain_output
        self.bias = nn.Parameter(torch.zeros(out_features, device=device)) if bias else None

    @classmethod
    @torch.no_grad()
    def from_linear(cls, layer: nn.Linear, name: str, plain_output: bool, density: float | None = None) -> Int8Linear:
        """Quantise a linear layer's weight; ranges are taken over from a layer that simulated int8.

        Raises ConfigError where a packed layer has more nonzero weights than `density` leaves room for.
        """
        bake_mask(layer)
        stored = cls(
            layer.in_features, layer.out_features, layer.bias is not None, plain_output, density, layer.weight.device
        )
        if layer.weight.is_meta:
            return stored
        integers, scale = quantize_weight(layer.weight, getattr(layer, "largest_weight", None))
        stored.set_integers(integers, name)
        stored.weight_scale.copy_(scale)
        if layer.bias is not None:
            stored.bias.copy_(layer.bias)
        for side in ("input",) if plain_output else ("input", "output"):
            observer = getattr(layer, f"{side}_range", None)
            if observer is not None and bool(observer.observed):
                scale, zero_point = activation_grid(observer.low, observer.high)
                getattr(stored, f"{side}_scale").copy_(scale)
                getattr(stored, f"{side}_zero_point").copy_(zero_point)
        return stored

    def set_integers(self, integers: torch.Tensor, name: str) -> None:
        """Store an int8 weight (out, in), whole or packed."""
        if self.density is None:
            self.weight_int8.copy_(integers)
            return
        values, bits = pack(integers, self.weight_values.numel(), name)
        self.weight_values.copy_(values)
        self.weight_bits.copy_(bits)

    def integers(self) -> torch.Tensor:
        """Return the weight as int8, (out, in)."""
        if self.density is None:
            return self.weight_int8
        return unpack(self.weight_values, self.weight_bits, (self.out_features, self.in_features))

    @property
    def weight(self) -> torch.Tensor:
        """The weight in fp32: integers times the scale."""
        return self.integers().float() * self.weight_scale

    def _on_grid(self, x: torch.Tensor, side: str) -> torch.Tensor:
        scale, zero_point = getattr(self, f"{side}_scale"), getattr(self, f"{side}_zero_point").float()
        if not x.is_meta and float(scale) == 0.0:
            scale, zero_point = activation_grid(*torch.aminmax(x))
        return fake_quantize(x, scale, zero_point, *ACTIVATION_RANGE)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Map (…, in_features) to (…, out_features) in fp32."""
        with torch.autocast(_autocast_device(input), enabled=False):
            output = functional.linear(self._on_grid(input.float(), "input"), self.weight, self.bias)
            return output if self.plain_output else self._on_grid(output, "output")

    def to_linear(self) -> nn.Linear:
        """Return an ordinary linear layer with the dequantised weight."""
        with torch.device("meta"):
            layer = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None)
        layer.weight = nn.Parameter(self.weight.detach())
        layer.bias = self.bias
        return layer

    def extra_repr(self) -> str:
        """Return the layer's sizes."""
        return f"in_features={self.in_features}, out_features={self.out_features}, density={self.density}"


def _autocast_device(x: torch.Tensor) -> str:
    return "cpu" if x.is_meta else x.device.type
