"""Bytes that a model's weights need when parts are stored in fewer bits or only in part."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import nn

from replica.meters.model_parts import LAYERS, Located, check_patterns, locate, matching
from replica.meters.options import StorageOptions

MIB = 2**20
FULL_BITS = 32
_DEFAULT = StorageOptions()

ByPattern = float | Mapping[str, float | str] | None


def storage_bytes(model: nn.Module, options: StorageOptions = _DEFAULT) -> dict:
    """Return the bytes of a model's weights in a storage format, against 32 bits for each of them; works on meta.

    Shared tensors count once. Returns the keys of `StorageOptions.results`; raises ConfigError for a key of the options that fits no
    parameter.
    """
    everything = list(locate(model))
    exclude = dict.fromkeys(options.exclude, True)
    located = [item for item in everything if matching(exclude, item) is None]
    tables = {key: _table(getattr(options, key)) for key in ("bits", "density", "scales")}
    for key, table in {**tables, "exclude": exclude}.items():
        check_patterns(table, everything, f"storage.{key}")
    stored = [_store(item, tables, options) for item in located]
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


def _table(value: ByPattern) -> dict:
    if value is None:
        return {}
    return dict(value) if isinstance(value, Mapping) else {"layer_linears": value}


def _store(item: Located, tables: dict, options: StorageOptions) -> dict:
    """Return a parameter's cost in bits: of its values, and of values, scales and positions together."""
    count = item.parameter.numel()
    bits = matching(tables["bits"], item)
    share = matching(tables["density"], item)
    kept_values = count if share is None else share * count
    value_bits = kept_values * (options.default_bits if bits is None else bits)
    scales = {None: 0, "tensor": 1, "row": math.prod(item.parameter.shape[:1])}[matching(tables["scales"], item)]
    per_index = {"none": 0, "mask": count}
    index_bits = per_index[options.index] if options.index in per_index else options.index * kept_values
    return {
        "values": kept_values,
        "value_bits": value_bits,
        "bits": value_bits + FULL_BITS * scales + (index_bits if kept_values < count else 0),
        "count": count,
    }


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
