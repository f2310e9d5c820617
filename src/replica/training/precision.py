"""The number format of a run's computations, decided once from the device."""

from __future__ import annotations


def bf16_is_fast() -> bool:
    """Return whether the GPU or the processor multiplies bfloat16 natively (AVX512-BF16, AMX)."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    probe = [getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")]
    return any(check() for check in probe if check is not None)


def choose(precision: str) -> str:
    """Turn `auto` into `bf16` where that is fast, else `fp32`; other values stay."""
    if precision != "auto":
        return precision
    return "bf16" if bf16_is_fast() else "fp32"
