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
#: More papers than this are counted together, so that all fits a screen of 24 lines.
MOST_PAPERS = 8
#: Trends shown before the rest is counted: where papers are listed one by one, and where they are counted together.
MOST_TRENDS = {False: 20, True: 7}
#: Papers with rows worse than the paper's that are named, before the rest is counted.
NAMED = 8


def counts(rows: list[Row]) -> dict[str, dict[str, Counter[str]]]:
    """Return paper → evidence → verdict → number of rows."""
    tallies: dict[str, dict[str, Counter[str]]] = {}
    for row in rows:
        tallies.setdefault(row["paper"], {}).setdefault(row["evidence"], Counter())[row["verdict"]] += 1
    return tallies


def tally(counter: Counter[str]) -> Text:
    """Return counts as text, `31 match  2 worse`, in the order of the verdicts."""
    parts = [Text(f"{counter[verdict]} {verdict}", style=_STYLES[verdict]) for verdict in ALL if counter[verdict]]
    return Text("  ").join(parts)


def scorecard(rows: list[Row], report: Path | str | None = None) -> RenderableType:
    """Return a renderable of a screen's height: counts per paper and evidence, trends with intervals, the report's path."""
    if not rows:
        return Text("the ledger is empty")
    tallies = counts(rows)
    folded = len(tallies) > MOST_PAPERS
    parts: list[RenderableType] = [_together(rows, tallies) if folded else _by_paper(rows, tallies)]
    wrong = Counter(row["paper"] for row in rows if row["verdict"] in ("worse", "contradicted"))
    if folded and wrong:
        named = ", ".join(f"{paper} {number}" for paper, number in wrong.most_common(NAMED))
        more = f" and {len(wrong) - NAMED} more papers" if len(wrong) > NAMED else ""
        parts.append(Text(f"worse or contradicted: {named}{more}"))
    measured = [row for row in rows if row["evidence"] == "trend" and row["our_value"] is not None]
    if measured:
        parts.append(_trends(measured, MOST_TRENDS[folded]))
    if folded:
        parts.append(Text("each paper: replica status"))
    if report is not None:
        parts.append(Text(f"report: {report}"))
    return Group(*parts)


def _total(tallies: dict[str, dict[str, Counter[str]]], evidence: str) -> Counter[str]:
    return sum((kinds.get(evidence, Counter()) for kinds in tallies.values()), Counter())


def _together(rows: list[Row], tallies: dict[str, dict[str, Counter[str]]]) -> Table:
    """Return the counts of all papers, a line for each kind of evidence."""
    title = f"{len(rows)} claims of {len(tallies)} papers, {rows[0]['scale']} scale"
    summary = Table(title=title, title_justify="left", pad_edge=False, box=None, show_header=False)
    for evidence in EVIDENCE:
        summary.add_row(evidence, tally(_total(tallies, evidence)))
    return summary


def _by_paper(rows: list[Row], tallies: dict[str, dict[str, Counter[str]]]) -> Table:
    """Return the counts paper by paper, with their sum."""
    summary = Table(title=f"claims, {rows[0]['scale']} scale", title_justify="left", pad_edge=False)
    summary.add_column("paper", no_wrap=True)
    for evidence in EVIDENCE:
        summary.add_column(evidence, overflow="fold")
    for paper, kinds in sorted(tallies.items()):
        summary.add_row(paper, *(tally(kinds.get(evidence, Counter())) for evidence in EVIDENCE))
    summary.add_section()
    summary.add_row("all", *(tally(_total(tallies, evidence)) for evidence in EVIDENCE))
    return summary


def _trends(rows: list[Row], most: int) -> Table:
    title = "trends: effect [95 % interval]"
    table = Table(title=title, title_justify="left", pad_edge=False, box=None)
    table.add_column("claim", overflow="fold")
    for column in ("effect", "interval", "margin", "unit", "seeds", "verdict"):
        table.add_column(column, no_wrap=True, justify="left" if column in ("unit", "verdict") else "right")
    for row in rows[:most]:
        bounds = "" if row["low"] is None else f"[{_short(row['low'])}, {_short(row['high'])}]"
        margin = f"{row['direction']} {row['tolerance'].removeprefix('margin ')}"
        verdict = Text(row["verdict"], style=_STYLES[row["verdict"]])
        name = row["claim"].removesuffix(":trend")
        table.add_row(
            name, _short(row["our_value"]), Text(bounds), margin, row["unit"] or "", text(row["seeds"]), verdict
        )
    if len(rows) > most:
        table.add_row(f"and {len(rows) - most} more", "", "", "", "", "", "")
    return table


def _short(value: float) -> str:
    return f"{value:+.3g}"
