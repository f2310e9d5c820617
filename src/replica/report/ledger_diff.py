"""Differences between two ledgers as tables for a terminal, as Markdown for a pull request's comment, and as a page."""

from __future__ import annotations

from dataclasses import replace
from importlib import resources

import jinja2
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from replica.claims.changes import Change, Changes, differing
from replica.claims.compare import Row
from replica.claims.numbers import text
from replica.report.sheets import Sheet
from replica.report.sheets import markdown as in_markdown

NONE = "no verdict, number or claim differs"
_ARROW = " → "


def sheets(changes: Changes) -> list[Sheet]:
    """Return the tables: counts of verdicts first, then changed verdicts, changed numbers, changed claims, new and lost rows.

    Only counts that changed are listed, and tables without a row are left out.
    """
    lists = [
        Sheet(
            "Rows by verdict",
            ["verdict", "before", "after", "change"],
            [
                [verdict, str(before), str(after), f"{after - before:+d}"]
                for verdict, before, after in changes.counted()
                if before != after
            ],
        ),
        Sheet("Changed verdicts", ["paper", "claim", "verdict", "ours"], [_verdict(item) for item in changes.verdicts]),
        Sheet(
            "Changed numbers",
            ["paper", "claim", "paper's", "ours", "change", "verdict"],
            [_number(item) for item in changes.numbers],
        ),
        Sheet(
            "Changed claims", ["paper", "claim", "what the claim says"], [_claimed(item) for item in changes.claimed]
        ),
        Sheet("Appeared", ["paper", "claim", "ours", "verdict"], [_row(row) for row in changes.appeared]),
        Sheet("Disappeared", ["paper", "claim", "ours", "verdict"], [_row(row) for row in changes.disappeared]),
    ]
    return [sheet for sheet in lists if sheet.rows]


def headline(changes: Changes) -> str:
    """Return one line with the number of differences of each kind."""
    if not changes:
        return f"{NONE} ({changes.rows[1]} rows)"
    counts = {
        "changed verdicts": changes.verdicts,
        "changed numbers": changes.numbers,
        "changed claims": changes.claimed,
        "appeared": changes.appeared,
        "disappeared": changes.disappeared,
    }
    listed = ", ".join(f"{len(rows)} {name}" for name, rows in counts.items())
    return f"{listed}; {changes.rows[0]} rows before, {changes.rows[1]} after"


def terminal(changes: Changes, names: tuple[str, str], most: int = 0) -> RenderableType:
    """Return rich tables of at most `most` rows each (0: all)."""
    parts: list[RenderableType] = [Text(_ARROW.join(names)), Text(headline(changes))]
    for sheet in _cut(sheets(changes), most):
        table = Table(title=Text(sheet.title), title_justify="left", pad_edge=False)
        for name in sheet.header:
            table.add_column(name, overflow="fold")
        for row in sheet.rows:
            table.add_row(*(Text(cell) for cell in row))
        parts += [table, *([Text(sheet.note)] if sheet.note else [])]
    return Group(*parts)


def markdown(changes: Changes, names: tuple[str, str], most: int = 0) -> str:
    """Return Markdown for a pull request's comment: free of HTML, tables of at most `most` rows."""
    first = f"### Results: {in_markdown(names[0])}{_ARROW}{in_markdown(names[1])}\n\n{headline(changes)}\n"
    return "\n".join([first, *(sheet.to_markdown() for sheet in _cut(sheets(changes), most))])


def page(changes: Changes, names: tuple[str, str]) -> str:
    """Return one self-contained HTML page with every difference."""
    template = resources.files("replica.report") / "templates" / "changes.html.j2"
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(template.read_text(encoding="utf-8")).render(
        names=names, headline=headline(changes), sheets=sheets(changes)
    )


def _cut(tables: list[Sheet], most: int) -> list[Sheet]:
    return [
        sheet
        if not most or len(sheet.rows) <= most
        else replace(sheet, rows=sheet.rows[:most], note=f"and {len(sheet.rows) - most} more")
        for sheet in tables
    ]


def _verdict(change: Change) -> list[str]:
    before, after = change.before, change.after
    verdict = f"{before['verdict']}{_ARROW}{after['verdict']}"
    return [after["paper"], after["claim"], verdict, _ours(change)]


def _number(change: Change) -> list[str]:
    row = change.after
    relative = "" if change.relative is None else f"{100 * change.relative:+.3g} %"
    return [row["paper"], row["claim"], text(row.get("paper_value")), _ours(change), relative, row["verdict"]]


def _claimed(change: Change) -> list[str]:
    parts = [
        f"{column}: {text(change.before.get(column)) or '–'}{_ARROW}{text(change.after.get(column)) or '–'}"
        for column in differing(change)
    ]
    return [change.after["paper"], change.after["claim"], "; ".join(parts)]


def _row(row: Row) -> list[str]:
    return [row["paper"], row["claim"], _measured(row) + _unit(row), row["verdict"]]


def _ours(change: Change) -> str:
    before, after = _measured(change.before), _measured(change.after)
    return (before if before == after else f"{before}{_ARROW}{after}") + _unit(change.after)


def _measured(row: Row) -> str:
    """Return our number with its interval; a dash where there is none."""
    if row["our_value"] is None:
        return "–"
    interval = "" if row.get("low") is None else f" [{text(row['low'])}, {text(row.get('high'))}]"
    return text(row["our_value"]) + interval


def _unit(row: Row) -> str:
    return f" {row['unit']}" if row.get("unit") and row["our_value"] is not None else ""
