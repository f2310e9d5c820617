"""Bounds of a model's configuration, so that a slip of the pen is an error at once and not a process without end. Imports no torch."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

#: Most layers, groups of layers, and any other number of a model's configuration.
MOST_LAYERS, MOST = 1000, 10_000_000
_LAYERS = re.compile(r"layers?$|^depths?$|groups$")
_SIZES = re.compile(r"_sizes?$|^d_|_dim$|^dim$|^n_|heads$|channels$|positions$")


def check_sizes(config: Mapping[str, Any]) -> None:
    """Raise ValueError naming the key of a size that is no number, is negative or is beyond every model."""
    for key, value in config.items():
        layers = bool(_LAYERS.search(key))
        for number in _numbers(key, value):
            if not isinstance(number, int | float):
                if (layers or _SIZES.search(key)) and number is not None:
                    raise ValueError(f"`{key}` is a number (or a list of numbers), not {number!r:.60}")
            elif not math.isfinite(number):
                raise ValueError(f"`{key}: {number}` is no finite number")
            elif number < (0 if layers or (_SIZES.search(key) and "relative" not in key) else -1):
                raise ValueError(f"`{key}: {number}` is negative")
            elif number > (MOST_LAYERS if layers else MOST):
                raise ValueError(
                    f"`{key}: {number}` is beyond the {MOST_LAYERS if layers else MOST} that a model may have"
                )


def _numbers(key: str, value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple | dict):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _numbers(key, inner)
    elif not isinstance(value, bool) or _LAYERS.search(key) or _SIZES.search(key):
        yield str(value).lower() if isinstance(value, bool) else value
