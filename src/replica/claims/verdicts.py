"""Verdicts, computed from numbers and never typed: which one follows from ours, the paper's, tolerance and direction."""

from __future__ import annotations

from replica.config.schema import Tolerance

#: All verdicts in the order in which they are listed.
ALL = (
    "match", "better", "worse", "within-noise", "paper-inconsistent", "reproduced", "inconclusive", "contradicted",
    "not-run", "blocked",
)  # fmt: skip

#: Room for the last bit of a binary fraction: 0.3 - 0.1 is not further from 0.1 than 0.1.
_ROUNDING = 1e-9


def within(ours: float, paper: float, tolerance: Tolerance) -> bool:
    """Whether ours lies within the tolerance of the paper's number; the boundary belongs to it."""
    if tolerance.digits is not None:
        return round(ours, tolerance.digits) == round(paper, tolerance.digits)
    allowed = tolerance.absolute if tolerance.absolute is not None else abs(paper) * float(tolerance.relative or 0)
    return abs(ours - paper) <= allowed + _ROUNDING * max(abs(ours), abs(paper))


def structural(ours: float, paper: float, tolerance: Tolerance, direction: str, erratum: bool = False) -> str:
    """Return match, better, worse or paper-inconsistent.

    Within the tolerance it is a match. Beyond it, a claim that carries an erratum is paper-inconsistent; `at-least` and
    `at-most` match on the side they allow; `higher` and `lower` are better on their side and worse on the other; `equal` has no
    good side, so any difference is worse.
    """
    if within(ours, paper, tolerance):
        return "match"
    above = ours > paper
    if (direction == "at-least" and above) or (direction == "at-most" and not above):
        return "match"
    if erratum:
        return "paper-inconsistent"
    if (direction == "higher" and above) or (direction == "lower" and not above):
        return "better"
    return "worse"


def full(
    ours: float,
    paper: float,
    tolerance: Tolerance,
    direction: str,
    interval: tuple[float, float] | None,
    erratum: bool = False,
) -> str:
    """Return match, within-noise (our seeds' interval holds the paper's number), better or worse."""
    verdict = structural(ours, paper, tolerance, direction, erratum)
    if verdict in ("better", "worse") and interval is not None and interval[0] <= paper <= interval[1]:
        return "within-noise"
    return verdict


def ordering(ours: float, direction: str, interval: tuple[float, float] | None = None) -> str:
    """Return the verdict on a claim that gives an ordering and no number: `ours` is the difference that the claim expects to be positive.

    `higher` and `at-least` expect a difference of zero or more, `lower` and `at-most` of zero or less.
    """
    right = ours >= 0 if direction in ("higher", "at-least") else ours <= 0
    if right:
        return "match"
    return "within-noise" if interval is not None and interval[0] <= 0 <= interval[1] else "worse"


def trend(low: float, high: float, margin: float, direction: str) -> str:
    """Return reproduced when the whole interval lies beyond the margin, contradicted when it lies on the other side.

    An interval that holds or touches the margin is inconclusive, and so is one without width: seeds that give the same number to the
    last bit show a measure that does not move, not an effect.
    """
    if low == high:
        return "inconclusive"
    beyond, other = (low > margin, high < margin) if direction == "above" else (high < margin, low > margin)
    if beyond:
        return "reproduced"
    return "contradicted" if other else "inconclusive"


def tolerance_text(tolerance: Tolerance) -> str:
    """Return a tolerance as the ledger shows it: `± 0.5`, `± 3 %` or `3 decimals`."""
    if tolerance.digits is not None:
        return f"{tolerance.digits} decimal{'' if tolerance.digits == 1 else 's'}"
    if tolerance.relative is not None:
        return f"± {tolerance.relative * 100:g} %"
    return f"± {tolerance.absolute:g}"
