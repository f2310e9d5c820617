"""Bytes that a model's weights need when parts are stored in fewer bits or only in part."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from replica.errors import ConfigError
from replica.meters.model_parts import LAYERS, Located, check_patterns, locate, matching

MIB = 2**20
FULL_BITS = 32
DEFAULT_PATTERN = "layer_linears"

ByPattern = float | int | str | Mapping[str, float | int | str] | None


def storage_bytes(
    model: nn.Module,
    bits: ByPattern = None,
    *,
    default_bits: float = FULL_BITS,
    density: ByPattern = None,
    index: int | str = "none",
    scales: ByPattern = None,
    exclude: tuple[str, ...] | list[str] = (),
    masks: Mapping[str, torch.Tensor] | None = None,
) -> dict:
    """Return the bytes of a model's weights in a storage format, against 32 bits for each of them; works on meta.

    `bits` (bits a value), `density` (share of values kept) and `scales` ("tensor" or "row": one fp32 scale for each) map a part's
    name or a glob over parameter names to a value, the last that fits wins; a bare value means the matrices of the layers.
    `index` is what finding the kept values costs in matrices with a density below 1: "none", "mask" (one bit a position), or
    bits for each kept value. `exclude` leaves parts or globs out on both sides. `masks` (name of a parameter: tensor of zeros
    and ones) gives real densities and wins over `density`. Shared tensors count once.

    The `*_ratio` of the matrices of the layers: `values_only` is 32 / (density x bits); `with_mask` adds one bit a position;
    `with_rest` adds the layers' biases and norms in 32 bits on both sides. `ratio` is of everything, as `bytes` is.
    Raises ConfigError for a key that fits no parameter, a density outside (0, 1], and an unknown index or scale.
    """
    located = [item for item in locate(model) if matching(dict.fromkeys(exclude, True), item) is None]
    tables = {"bits": _table(bits), "density": _table(density), "scales": _table(scales)}
    for key, table in {**tables, "exclude": dict.fromkeys(exclude)}.items():
        check_patterns(table, list(locate(model)), f"storage.{key}")
    stored = [_store(item, tables, default_bits, index, (masks or {}).get(item.name)) for item in located]
    parts: dict[str, dict] = {}
    for item, cost in zip(located, stored, strict=True):
        part = parts.setdefault(item.part, {"parameters": 0, "bytes": 0.0, "baseline_bytes": 0})
        part["parameters"] += item.parameter.numel()
        part["bytes"] += cost["bits"] / 8
        part["baseline_bytes"] += item.parameter.numel() * FULL_BITS // 8
    count = sum(part["parameters"] for part in parts.values())
    size = sum(part["bytes"] for part in parts.values())
    baseline = count * FULL_BITS // 8
    layers = [parts[part] for part in LAYERS if part in parts]
    in_layers, layers_baseline = (sum(part[key] for part in layers) for key in ("bytes", "baseline_bytes"))
    return {
        "bytes": size,
        "mib": size / MIB,
        "mb": size / 1e6,
        "baseline_bytes": baseline,
        "baseline_mib": baseline / MIB,
        "baseline_mb": baseline / 1e6,
        "ratio": _ratio(baseline, size),
        "bits_per_parameter": 8 * size / count if count else 0.0,
        "parameters": count,
        "stored_values": sum(cost["values"] for cost in stored),
        "transformer_bytes": in_layers,
        "transformer_baseline_bytes": layers_baseline,
        "transformer_ratio": _ratio(layers_baseline, in_layers),
        **_linear_ratios(located, stored),
        "by_part": parts,
    }


def file_bytes(path: Path | str) -> int:
    """Return the size of a file in bytes, or of all files in a folder."""
    path = Path(path)
    if path.is_dir():
        return sum(os.path.getsize(inner) for inner in path.rglob("*") if inner.is_file())
    return os.path.getsize(path)


def _table(value: ByPattern) -> dict:
    if value is None:
        return {}
    return dict(value) if isinstance(value, Mapping) else {DEFAULT_PATTERN: value}


def _store(item: Located, tables: dict, default_bits: float, index: int | str, mask: torch.Tensor | None) -> dict:
    """Return a parameter's cost in bits: of its values, of its scales, of finding its values, and together."""
    count = item.parameter.numel()
    bits = matching(tables["bits"], item)
    share = matching(tables["density"], item)
    kept = int(torch.count_nonzero(mask)) if mask is not None else count if share is None else share * count
    if not 0 <= kept <= count or (mask is None and share is not None and not 0 < share <= 1):
        raise ConfigError(f"storage.density: {share} for '{item.name}' is not a share in (0, 1]")
    bits = default_bits if bits is None else bits
    values = kept * bits
    scale = _scales(matching(tables["scales"], item), item)
    finding = 0 if kept == count else count if index == "mask" else 0 if index == "none" else _index_bits(index) * kept
    return {"values": kept, "value_bits": values, "bits": values + scale + finding, "count": count}


def _index_bits(index: int | str) -> int:
    if isinstance(index, bool) or not isinstance(index, int) or index < 0:
        raise ConfigError(f"storage.index: '{index}' is neither none nor mask nor a number of bits for each kept value")
    return index


def _scales(kind: str | None, item: Located) -> int:
    if kind is None:
        return 0
    if kind == "tensor":
        return FULL_BITS
    if kind == "row":
        return FULL_BITS * math.prod(item.parameter.shape[:1])
    raise ConfigError(f"storage.scales: '{kind}' for '{item.name}' is neither tensor nor row")


def _linear_ratios(located: list[Located], stored: list[dict]) -> dict[str, float]:
    """Return the compression of the layers' matrices by the conventions that papers use."""
    linears = [cost for item, cost in zip(located, stored, strict=True) if item.part == "layer_linears"]
    dense = sum(cost["count"] for cost in linears) * FULL_BITS
    values = sum(cost["value_bits"] for cost in linears)
    mask = sum(cost["count"] for cost in linears if cost["values"] < cost["count"])
    rest = FULL_BITS * sum(i.parameter.numel() for i in located if i.part in LAYERS and i.part != "layer_linears")
    return {
        "values_only_ratio": _ratio(dense, values),
        "with_rest_ratio": _ratio(dense + rest, values + rest),
        "with_mask_ratio": _ratio(dense, values + mask),
        "with_mask_and_rest_ratio": _ratio(dense + rest, values + mask + rest),
    }


def _ratio(baseline: float, size: float) -> float:
    return baseline / size if size else 0.0
