"""How numbers are rounded for the ledger and written everywhere: one function each, so that all places show the same digits."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any


def significant(value: float | int | None, digits: int = 6) -> float | int | None:
    """Round to significant digits; whole numbers stay exact, and digits before the decimal point are never lost."""
    if value is None or isinstance(value, int):
        return value
    if value == int(value) and abs(value) < 2**53:
        return int(value)
    decimals = digits - 1 - math.floor(math.log10(abs(value)))
    rounded = round(value, max(decimals, 0))
    return int(rounded) if rounded == int(rounded) and abs(rounded) < 2**53 else rounded


def text(value: Any) -> str:
    """Return a value as every table shows it: positional digits without exponent, text as it is, an empty text for None."""
    if value is None:
        return ""
    if isinstance(value, float):
        return format(Decimal(repr(value)), "f")
    return str(value)
