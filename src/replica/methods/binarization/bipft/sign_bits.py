"""Signs as bits: eight to a byte, row by row."""

from __future__ import annotations

import math

import torch


def packed_width(columns: int) -> int:
    """Return the bytes that a row of `columns` signs takes."""
    return math.ceil(columns / 8)


def pack_signs(signs: torch.Tensor) -> torch.Tensor:
    """Pack the last axis: True (or a positive number) is bit 1, lowest bit first; a last, short byte is filled with zeros.

    `signs` is (..., columns) of bool or numbers; returns uint8 (..., ceil(columns / 8)). Works on meta.
    """
    bits = signs if signs.dtype == torch.bool else signs > 0
    missing = -bits.shape[-1] % 8
    bits = torch.nn.functional.pad(bits.to(torch.uint8), (0, missing))
    bits = bits.unflatten(-1, (-1, 8))
    return (bits << _places(bits)).sum(-1, dtype=torch.uint8)


def unpack_signs(packed: torch.Tensor, columns: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return the signs -1 and +1 (..., columns) in `dtype` of packed bytes (..., ceil(columns / 8))."""
    bits = (packed.unsqueeze(-1) >> _places(packed)) & 1
    return bits.flatten(-2)[..., :columns].to(dtype).mul_(2).sub_(1)


def _places(like: torch.Tensor) -> torch.Tensor:
    return torch.arange(8, dtype=torch.uint8, device=like.device)
