"""The differences of two ledgers: verdicts, measured numbers, claims, and rows that only one of them has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from replica.claims.compare import Row
from replica.claims.verdicts import ALL
from replica.errors import ResultError

#: The columns of our numbers.
MEASURED = ("our_value", "low", "high")
#: The columns of the paper's number and of how ours is compared with it.
CLAIMED = ("paper_value", "unit", "tolerance", "direction", "evidence", "scale")
_NEEDED = {"paper", "claim", "verdict", "our_value"}


@dataclass(frozen=True)
class Change:
    """A row that both ledgers have, as it was and as it is."""

    before: Row
    after: Row

    @property
    def relative(self) -> float | None:
        """The change of our number as a share of the old one's size; None where one is missing, no number, or the old one is 0."""
        old, new = self.before["our_value"], self.after["our_value"]
        if not _is_number(old) or not _is_number(new) or old == 0:
            return None
        return (new - old) / abs(old)


@dataclass(frozen=True)
class Changes:
    """All differences between two ledgers, each list in the order of paper and claim; a row may be in several."""

    rows: tuple[int, int]
    counts: tuple[Counter[str], Counter[str]]
    verdicts: list[Change]
    numbers: list[Change]
    claimed: list[Change]
    appeared: list[Row]
    disappeared: list[Row]

    def __bool__(self) -> bool:
        return any((self.verdicts, self.numbers, self.claimed, self.appeared, self.disappeared))

    def counted(self) -> list[tuple[str, int, int]]:
        """Return (verdict, rows before, rows after) of every verdict that either ledger holds, in the verdicts' order."""
        before, after = self.counts
        return [(name, before[name], after[name]) for name in ALL if before[name] or after[name]]


def changes(before: Iterable[Row], after: Iterable[Row], names: tuple[Any, Any] = ("before", "after")) -> Changes:
    """Compare two ledgers row by row, each row known by its paper and claim.

    Values are compared as they are stored, rounded to the ledger's digits. A column that an older ledger lacks counts as empty.
    `names` are for errors: ResultError for a row that appears twice or lacks a column that is compared.
    """
    old, new = _by_key(before, names[0]), _by_key(after, names[1])
    both = [Change(old[key], new[key]) for key in sorted(old.keys() & new.keys())]
    return Changes(
        rows=(len(old), len(new)),
        counts=(Counter(row["verdict"] for row in old.values()), Counter(row["verdict"] for row in new.values())),
        verdicts=[change for change in both if change.before["verdict"] != change.after["verdict"]],
        numbers=[change for change in both if _differ(change, MEASURED)],
        claimed=[change for change in both if _differ(change, CLAIMED)],
        appeared=[new[key] for key in sorted(new.keys() - old.keys())],
        disappeared=[old[key] for key in sorted(old.keys() - new.keys())],
    )


def differing(change: Change, columns: Iterable[str] = CLAIMED) -> list[str]:
    """Return which of some columns differ."""
    return [column for column in columns if change.before.get(column) != change.after.get(column)]


def _differ(change: Change, columns: Iterable[str]) -> bool:
    return bool(differing(change, columns))


def _by_key(rows: Iterable[Row], where: Path | str) -> dict[tuple[str, str], Row]:
    by_key: dict[tuple[str, str], Row] = {}
    for row in rows:
        if missing := sorted(_NEEDED - set(row)):
            raise ResultError(f"{where}: row {row.get('paper')} {row.get('claim')} lacks `{missing[0]}`")
        if row["verdict"] not in ALL:
            raise ResultError(f"{where}: row {row['paper']} {row['claim']} has the unknown verdict {row['verdict']!r}")
        key = (row["paper"], row["claim"])
        if key in by_key:
            raise ResultError(f"{where}: row {row['paper']} {row['claim']} appears twice")
        by_key[key] = row
    return by_key


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
