"""Sparse int8 matrices as a bit mask and the values at its ones."""

from __future__ import annotations

import math

import torch

from replica.errors import ConfigError
from replica.methods.bits import pack_bits, unpack_bits


def packed_bytes(count: int, density: float) -> tuple[int, int]:
    """Return the bytes of values and of the bit mask for a matrix of `count` weights of which `density` are nonzero."""
    return count - round((1 - density) * count), math.ceil(count / 8)


def pack(integers: torch.Tensor, capacity: int, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the nonzero values of an int8 matrix in row order, filled up with zeros to `capacity`, and the bit mask.

    Bit i % 8 (least significant first) of byte i // 8 is 1 where position i is nonzero. Raises ConfigError where more
    values are nonzero than fit.
    """
    flat = integers.flatten()
    nonzero = flat != 0
    count = int(nonzero.sum())
    if count > capacity:
        raise ConfigError(
            f"layer '{name}' has {count} nonzero weights of {flat.numel()}; packed_density leaves room for {capacity}: "
            f"set it to at least {math.ceil(1e4 * count / flat.numel()) / 1e4}, or name the layer in `unpacked`"
        )
    values = torch.zeros(capacity, dtype=torch.int8, device=flat.device)
    values[:count] = flat[nonzero]
    return values, pack_bits(nonzero)


def unpack(values: torch.Tensor, bits: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """Return the int8 matrix of `shape` that `pack` took apart."""
    count = shape[0] * shape[1]
    if values.is_meta:
        return torch.zeros(shape, dtype=torch.int8, device="meta")
    nonzero = unpack_bits(bits, count).bool()
    flat = torch.zeros(count, dtype=torch.int8, device=values.device)
    flat[nonzero] = values[: int(nonzero.sum())]
    return flat.view(shape)
