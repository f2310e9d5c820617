"""Booleans as bits: eight to a byte, lowest bit first."""

from __future__ import annotations

import torch


def pack_bits(values: torch.Tensor) -> torch.Tensor:
    """Pack the last axis of booleans (..., n) into uint8 (..., ceil(n / 8)); a last, short byte is filled with zeros. Works on meta."""
    bits = torch.nn.functional.pad(values.to(torch.uint8), (0, -values.shape[-1] % 8)).unflatten(-1, (-1, 8))
    return (bits << _places(bits)).sum(-1, dtype=torch.uint8)


def unpack_bits(packed: torch.Tensor, count: int) -> torch.Tensor:
    """Return the bits (..., count) of packed bytes (..., ceil(count / 8)) as uint8, each 0 or 1."""
    return ((packed.unsqueeze(-1) >> _places(packed)) & 1).flatten(-2)[..., :count]


def _places(like: torch.Tensor) -> torch.Tensor:
    return torch.arange(8, dtype=torch.uint8, device=like.device)
