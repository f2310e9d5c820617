"""The scorecard: verdicts by paper and evidence, and the trends' effects, on one screen of a terminal or a plain log."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from replica.claims.compare import Row
from replica.claims.numbers import text
from replica.claims.verdicts import ALL

_STYLES = {
    "match": "green", "better": "green", "reproduced": "green", "within-noise": "yellow", "inconclusive": "yellow",
    "paper-inconsistent": "magenta", "worse": "red", "contradicted": "red", "not-run": "dim", "blocked": "dim",
}  # fmt: skip
EVIDENCE = ("structural", "trend", "full")
#: Trends shown before the rest is counted: with the counts they fill a screen.
MOST_TRENDS = 20


def counts(rows: list[Row]) -> dict[str, dict[str, Counter[str]]]:
    """Return paper → evidence → verdict → number of rows."""
    found: dict[str, dict[str, Counter[str]]] = {}
    for row in rows:
        found.setdefault(row["paper"], {}).setdefault(row["evidence"], Counter())[row["verdict"]] += 1
    return found


def tally(counter: Counter[str]) -> Text:
    """Return counts as text, `31 match  2 worse`, in the order of the verdicts."""
    parts = [Text(f"{counter[verdict]} {verdict}", style=_STYLES[verdict]) for verdict in ALL if counter[verdict]]
    return Text("  ").join(parts)


def scorecard(rows: list[Row], report: Path | str | None = None) -> RenderableType:
    """Return a renderable of a screen's height: counts per paper and evidence, trends with intervals, the report's path."""
    if not rows:
        return Text("the ledger is empty")
    summary = Table(title=f"claims, {rows[0]['scale']} scale", title_justify="left", pad_edge=False)
    summary.add_column("paper", no_wrap=True)
    for evidence in EVIDENCE:
        summary.add_column(evidence, overflow="fold")
    totals: dict[str, Counter[str]] = {evidence: Counter() for evidence in EVIDENCE}
    for paper, found in sorted(counts(rows).items()):
        summary.add_row(paper, *(tally(found.get(evidence, Counter())) for evidence in EVIDENCE))
        for evidence, counter in found.items():
            totals[evidence].update(counter)
    summary.add_section()
    summary.add_row("all", *(tally(totals[evidence]) for evidence in EVIDENCE))
    parts: list[RenderableType] = [summary]
    measured = [row for row in rows if row["evidence"] == "trend" and row["our_value"] is not None]
    if measured:
        parts.append(_trends(measured))
    if report is not None:
        parts.append(Text(f"report: {report}"))
    return Group(*parts)


def _trends(rows: list[Row]) -> Table:
    title = "trends: effect [95 % interval]"
    table = Table(title=title, title_justify="left", pad_edge=False)
    table.add_column("claim", overflow="fold")
    for column in ("effect", "interval", "margin", "unit", "seeds", "verdict"):
        table.add_column(column, no_wrap=True, justify="left" if column in ("unit", "verdict") else "right")
    for row in rows[:MOST_TRENDS]:
        bounds = "" if row["low"] is None else f"[{_short(row['low'])}, {_short(row['high'])}]"
        margin = f"{row['direction']} {row['tolerance'].removeprefix('margin ')}"
        verdict = Text(row["verdict"], style=_STYLES[row["verdict"]])
        name = f"{row['paper']} {row['claim'].removesuffix(':trend')}"
        table.add_row(
            name, _short(row["our_value"]), Text(bounds), margin, row["unit"] or "", text(row["seeds"]), verdict
        )
    if len(rows) > MOST_TRENDS:
        table.add_row(f"and {len(rows) - MOST_TRENDS} more", "", "", "", "", "", "")
    return table


def _short(value: float) -> str:
    return f"{value:+.3g}"
