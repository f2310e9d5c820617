"""A paper's tables in the shape of its own (the paper's number / ours), and the lists of all its claims and trends."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from replica.claims.cells import cells, row_name
from replica.claims.compare import Row
from replica.claims.numbers import text
from replica.config.schema import Claim, Paper, Table
from replica.errors import ConfigError, nearest
from replica.files import atomic_folder
from replica.report.marks import LEGEND, MARKS, UNSURE, UNSURE_MEANS
from replica.report.names import ALL_CLAIMS, TRENDS
from replica.report.sheets import Sheet


@dataclass
class Grid:
    """A table of ledger rows: line label → column label → row of the ledger."""

    id: str
    title: str
    where: str
    columns: list[str] = field(default_factory=list)
    lines: dict[str, dict[str, Row]] = field(default_factory=dict)

    def put(self, line: str, column: str, row: Row) -> None:
        """Place a row of the ledger."""
        if column not in self.columns:
            self.columns.append(column)
        self.lines.setdefault(line, {})[column] = row

    def transposed(self) -> Grid:
        """Return the grid with lines and columns exchanged."""
        turned = Grid(self.id, self.title, self.where)
        for column in self.columns:
            for line, entries in self.lines.items():
                if column in entries:
                    turned.put(column, line, entries[column])
        return turned


def grids(paper: Paper, rows: list[Row]) -> list[Grid]:
    """Return the paper's declared tables of claims as grids of ledger rows."""
    tables = []
    for table in paper.tables:
        if table.id in (ALL_CLAIMS, TRENDS):
            raise ConfigError(f"{paper.file}: tables: '{table.id}' is the name of a table every paper has")
        if not table.arms:
            tables.append(grid(paper, table, rows))
    return tables


def grid(paper: Paper, table: Table, rows: list[Row]) -> Grid:
    """Return one declared table: a claim of one level gives a column, of two levels rows by columns."""
    by_claim = {row["claim"]: row for row in rows}
    claims = {claim.id: claim for claim in paper.claims}
    grid = Grid(table.id, table.title, table.where)
    for name in table.claims:
        if name not in claims:
            where = f"{paper.file}: tables.{table.id}"
            raise ConfigError(f"{where}: unknown claim '{name}'{nearest(name, claims)}")
    chosen = [claims[name] for name in table.claims]
    names = _claim_columns(chosen)
    for claim in chosen:
        _place(grid, claim, by_claim, names.get(claim.id))
    return grid.transposed() if table.transpose else grid


def sheets(paper: Paper, claims: dict[str, Any]) -> dict[str, tuple[Sheet, Sheet]]:
    """Return every table by name: wide (a column each for paper, ours and verdict) and compact (`paper / ours mark`)."""
    named = {grid.id: (wide(grid), compact(grid)) for grid in grids(paper, claims["rows"])}
    for table in paper.tables:
        if table.arms:
            grid = arms(table, claims.get("tables", {}).get(table.id, {}))
            named[table.id] = (grid, grid)
    everything = all_claims(paper, claims["rows"])
    named[ALL_CLAIMS] = (everything, everything)
    if any(claim.trend for claim in paper.claims):
        listed = trends(paper, claims)
        named[TRENDS] = (listed, listed)
    return named


def write(paper: Paper, claims: dict[str, Any], folder: Path | str) -> list[str]:
    """Write every table of a paper as CSV, Markdown and LaTeX into a folder that is replaced whole; returns their names."""
    tables = sheets(paper, claims)
    with atomic_folder(folder) as temporary:
        for name, (full, short) in tables.items():
            (temporary / f"{name}.csv").write_text(full.to_csv(), encoding="utf-8")
            (temporary / f"{name}.md").write_text(short.to_markdown(), encoding="utf-8")
            (temporary / f"{name}.tex").write_text(short.to_latex(), encoding="utf-8")
    return list(tables)


def wide(grid: Grid) -> Sheet:
    """Return a grid with three columns for each of its own: paper, ours, verdict."""
    header = [""] + [f"{column}: {part}" for column in grid.columns for part in ("paper", "ours", "verdict")]
    lines = []
    for label, entries in grid.lines.items():
        line = [label]
        for column in grid.columns:
            row = entries.get(column)
            line += ["", "", ""] if row is None else [text(row["paper_value"]), text(row["our_value"]), row["verdict"]]
        lines.append(line)
    return Sheet(_title(grid), header, lines)


def compact(grid: Grid) -> Sheet:
    """Return a grid with `paper / ours mark` in each cell."""
    lines = [
        [label, *(cell_text(entries[column]) if column in entries else "" for column in grid.columns)]
        for label, entries in grid.lines.items()
    ]
    return Sheet(_title(grid), ["", *grid.columns], lines, note=f"paper / ours. {LEGEND}. {UNSURE} {UNSURE_MEANS}.")


def cell_text(row: Row) -> str:
    """Return `paper† / ours mark` of a ledger row."""
    ours = text(row["our_value"]) or "–"
    return f"{paper_text(row) or '–'} / {ours} {MARKS[row['verdict']][0]}"


def paper_text(row: Row) -> str:
    """Return the paper's number with the mark of low confidence where it is due."""
    shown = text(row["paper_value"])
    return shown + UNSURE if shown and row["confidence"] == "low" else shown


def arms(table: Table, cells: dict[str, Any]) -> Sheet:
    """Return a table of laptop runs: the mean over seeds in each cell, with the lowest and highest where they differ."""
    columns = list(dict.fromkeys(column for row in table.arms.values() for column in row))

    def shown(row: str, column: str) -> str:
        cell = cells.get(row, {}).get(column, {})
        if "mean" not in cell:
            return "–" if column in table.arms[row] else ""
        low, high = min(cell["values"]), max(cell["values"])
        spread = f" ({text(low)} to {text(high)})" if low != high else ""
        return text(cell["mean"]) + spread

    lines = [[row, *(shown(row, column) for column in columns)] for row in table.arms]
    note = "Ours at laptop scale: mean over seeds (lowest to highest)."
    return Sheet(f"{table.title} ({table.where})" if table.where else table.title, ["", *columns], lines, note=note)


def all_claims(paper: Paper, rows: list[Row]) -> Sheet:
    """Return the list of every row of a paper."""
    header = ["claim", "evidence", "metric", "dataset", "unit", "paper", "ours", "low", "high", "verdict", "reason"]
    lines = [
        [
            row["claim"], row["evidence"], row["metric"] or "", row["dataset"] or "", row["unit"] or "", paper_text(row),
            text(row["our_value"]), text(row["low"]), text(row["high"]), row["verdict"], row["reason"] or "",
        ]
        for row in rows
    ]  # fmt: skip
    note = f"{UNSURE} {UNSURE_MEANS}."
    return Sheet(f"{paper.title}: all claims", header, lines, note, long=True, wrap={"claim": "3cm", "reason": "5cm"})


def trends(paper: Paper, claims: dict[str, Any]) -> Sheet:
    """Return the list of a paper's trends with arms, effect, interval and values per seed."""
    by_claim = {row["claim"]: row for row in claims["rows"]}
    header = [
        "trend",
        "arms",
        "effect",
        "low",
        "high",
        "seeds",
        "effect per seed",
        "margin",
        "unit",
        "verdict",
        "reason",
    ]
    lines = []
    for claim in paper.claims:
        if claim.trend is None:
            continue
        row, detail = by_claim[f"{claim.id}:trend"], claims["trends"].get(claim.id, {})
        arms = "; ".join(f"{label} {text(arm['mean'])}" for label, arm in detail.get("arms", {}).items())
        lines.append([
            claim.id, arms, text(row["our_value"]), text(row["low"]), text(row["high"]), text(row["seeds"]),
            "; ".join(text(value) for value in detail.get("effects", [])), f"{row['direction']} {claim.trend.margin:g}",
            row["unit"] or "", row["verdict"], row["reason"] or "",
        ])  # fmt: skip
    wrap = {"trend": "2.5cm", "arms": "3cm", "effect per seed": "2cm", "reason": "4cm"}
    return Sheet(f"{paper.title}: trends", header, lines, long=True, wrap=wrap)


def _title(grid: Grid) -> str:
    return f"{grid.title} ({grid.where})" if grid.where else grid.title


def _claim_columns(claims: list[Claim]) -> dict[str, str]:
    """Name the columns of claims of one level that share metric and lines: by their models where those differ, else by their ids."""
    flat = [
        claim for claim in claims if isinstance(claim.value, dict) and all(not _nested(v) for v in claim.value.values())
    ]
    metrics: dict[str, Counter[str]] = {}
    for claim in flat:
        metrics.setdefault(claim.metric or claim.kind, Counter()).update(map(str, claim.value))
    clashing = [claim for claim in flat if max(metrics[claim.metric or claim.kind].values(), default=0) > 1]
    models = [claim.model for claim in clashing]
    by_model = None not in models and len(set(models)) == len(models)
    return {claim.id: str(claim.model) if by_model else claim.id for claim in clashing}


def _nested(value: Any) -> bool:
    return isinstance(value, dict | list)


def _place(grid: Grid, claim: Claim, by_claim: dict[str, Row], name: str | None) -> None:
    metric = name or claim.metric or claim.kind
    claim_cells = cells(claim)
    lists = _list_paths(claim.value, ())
    for cell in claim_cells:
        row = by_claim.get(row_name(claim, cell))
        if row is None:
            raise ConfigError(f"claims.json holds no row {row_name(claim, cell)}; compare the paper again")
        keys = list(cell.keys)
        if keys and cell.keys[:-1] in lists:
            keys[-1] = column_names(claim.metric or claim.kind, lists[cell.keys[:-1]])[int(keys[-1])]
            if len(keys) == 1:  # the claim itself is a list: one line of columns
                keys = [claim.model or claim.id, *keys]
        line = keys[0] if keys else (claim.model or claim.id)
        column = " ".join(keys[1:]) or metric
        if column in grid.lines.get(line, {}):
            column = f"{column} ({claim.id})"
        grid.put(line, column, row)


def _list_paths(value: Any, keys: tuple[str, ...]) -> dict[tuple[str, ...], int]:
    if isinstance(value, list):
        return {keys: len(value)}
    if isinstance(value, str) and keys and re.fullmatch(r"[-\d.\s]+(/[-\d.\s]+)+", value):
        return {keys: value.count("/") + 1}
    lengths: dict[tuple[str, ...], int] = {}
    if isinstance(value, dict):
        for key, inner in value.items():
            lengths.update(_list_paths(inner, (*keys, str(key))))
    return lengths


def column_names(metric: str, count: int) -> list[str]:
    """Return names for a list's columns from a metric like `EM, F1` or `[MB, GFLOPs]`; numbered where it names others."""
    brackets = re.search(r"\[([^\]]*)\]", metric)
    for inner in filter(None, (brackets and brackets.group(1), metric)):
        for separator in (r"\s*[,;]\s*(?:and\s+)?", r"\s*/\s*", r"\s*[,;/]\s*"):
            names = [name for name in re.split(separator, inner.strip()) if name]
            if len(names) == count and len(set(names)) == count:
                return names
    return [f"{metric} {index + 1}" for index in range(count)]
