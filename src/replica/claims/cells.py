"""A claim's value, number or table, as flat cells, each with its key, the paper's number and the expression for ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from replica.claims.expressions import quoted
from replica.config.patterns import PART, parts
from replica.config.schema import Claim, Tolerance
from replica.errors import ConfigError, nearest

_SLASHED = re.compile(r"\s*-?\d+(?:\.\d+)?(?:\s*/\s*-?\d+(?:\.\d+)?)+\s*")


@dataclass(frozen=True)
class Cell:
    """One number (or text) of a claim. `keys` is its path in the claim's value, empty for a claim of one number."""

    keys: tuple[str, ...]
    value: float | int | str | None
    ours: str | None

    @property
    def key(self) -> str:
        """The dotted key; empty for a claim of one number."""
        return ".".join(self.keys)

    @property
    def is_number(self) -> bool:
        """Whether the paper gives a number here."""
        return isinstance(self.value, int | float)


def cells(claim: Claim) -> list[Cell]:
    """Return a claim's cells in the order of its value.

    Lists are keyed by position from 0; text like `90.2/90.0` is a list of its numbers; a null inside a table is no cell (the
    paper left it empty). A claim without a value, or with a sentence for one, is a single cell without number.
    """
    if isinstance(claim.ours, Mapping):
        _check_mirror(claim, claim.ours, claim.value, ())
    flat: list[Cell] = []
    _walk(claim, claim.value, (), flat)
    keys = [cell.key for cell in flat]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        raise ConfigError(f"claim {claim.id}: two cells have the key '{twice[0]}'; rename one of them")
    return flat


def row_name(claim: Claim, cell: Cell) -> str:
    """Return the name of a cell's row in the ledger: `claim` or `claim:cell.key`."""
    return f"{claim.id}:{cell.key}" if cell.keys else claim.id


def by_cell(entry: Any, keys: tuple[str, ...]) -> Any:
    """Return a per-cell setting's value for a cell: the setting itself when it is for all, else by dotted key, longest prefix first."""
    if not isinstance(entry, Mapping):
        return entry
    for length in range(len(keys), 0, -1):
        name = ".".join(keys[:length])
        if name in entry:
            return entry[name]
    return None


def tolerance_of(claim: Claim, cell: Cell, defaults: Mapping[str, Tolerance]) -> Tolerance:
    """Return the cell's tolerance: its own, the claim's, the settings' for this kind, else the last digit printed."""
    tolerance = by_cell(claim.tolerances, cell.keys) or claim.tolerance or defaults.get(claim.kind)
    return tolerance or Tolerance(digits=printed_digits(cell.value), reason="the last printed digit")


def printed_digits(value: Any) -> int:
    """Return how many decimals a number was printed with: 0.047 has three, 2127 and 2.0 have none."""
    if not isinstance(value, int | float):
        return 0
    exponent = Decimal(repr(value)).normalize().as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


def _walk(claim: Claim, value: Any, keys: tuple[str, ...], flat: list[Cell]) -> None:
    if isinstance(value, str) and keys and _SLASHED.fullmatch(value):
        value = [float(part) for part in value.split("/")]
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _walk(claim, inner, (*keys, str(key)), flat)
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            _walk(claim, inner, (*keys, str(index)), flat)
    elif value is not None or not keys:
        if isinstance(value, bool):
            value = str(value).lower()
        flat.append(Cell(keys, value, _ours(claim, keys)))


def _ours(claim: Claim, keys: tuple[str, ...]) -> str | None:
    node: Any = claim.ours
    for depth in range(len(keys) + 1):
        if node is None or isinstance(node, str | int | float):
            break
        if depth == len(keys):
            raise ConfigError(f"claim {claim.id}: `ours` goes deeper than `value` at '{'.'.join(keys)}'")
        node = _child(node, keys[depth])
    if node is None:
        return None
    return _fill(str(node), keys, claim)


def _child(node: Any, key: str) -> Any:
    if isinstance(node, Mapping):
        return next((inner for name, inner in node.items() if str(name) == key), None)
    if isinstance(node, list | tuple) and key.isdigit() and int(key) < len(node):
        return node[int(key)]
    return None


def _fill(template: str, keys: tuple[str, ...], claim: Claim) -> str:
    for part in parts(template):
        if part.isdigit() and int(part) >= len(keys):
            raise ConfigError(
                f"claim {claim.id}: `ours` asks for {{{part}}}, and the cell '{'.'.join(keys)}' has {len(keys)} key(s)"
            )
    return PART.sub(lambda part: quoted(keys[int(part[1])]) if part[1].isdigit() else part[0], template)


def _check_mirror(claim: Claim, ours: Mapping[str, Any], value: Any, keys: tuple[str, ...]) -> None:
    if isinstance(value, list | tuple):
        known = {str(index): inner for index, inner in enumerate(value)}
    elif isinstance(value, Mapping):
        known = {str(name): inner for name, inner in value.items()}
    elif isinstance(value, str) and _SLASHED.fullmatch(value):
        known = {str(index): None for index in range(value.count("/") + 1)}
    else:
        raise ConfigError(f"claim {claim.id}: `ours` is a mapping at '{'.'.join(keys)}' where `value` is not")
    for name, inner in ours.items():
        if str(name) not in known:
            where = ".".join((*keys, str(name)))
            raise ConfigError(
                f"claim {claim.id}: `ours` has a cell '{where}' that `value` has not{nearest(name, known)}"
            )
        if isinstance(inner, Mapping):
            _check_mirror(claim, inner, known[str(name)], (*keys, str(name)))
