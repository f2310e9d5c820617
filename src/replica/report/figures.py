"""A paper's figures, drawn from the same numbers as its tables, as SVG, PNG and PDF that come out the same every time; and their data."""

from __future__ import annotations

import io
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.figure import Figure as Drawing

from replica.claims.compare import Row
from replica.claims.evidence import Evidence
from replica.config.schema import Figure, Paper
from replica.errors import ConfigError, nearest
from replica.files import atomic_folder, write_json, write_text
from replica.report import drawings, overview
from replica.report.names import LISTING
from replica.report.points import Numbers
from replica.report.sheets import Sheet

STYLE = resources.files("replica.report") / "templates" / "replica.mplstyle"
#: Files hold no date: the same numbers give the same bytes.
METADATA: dict[str, dict[str, Any]] = {
    "svg": {"Date": None, "Creator": None},
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


def write(paper: Paper, claims: dict[str, Any], evidence: Evidence, folder: Path | str) -> list[dict[str, Any]]:
    """Draw a paper's figures into a folder that is replaced whole, each with its data as CSV.

    Returns (and writes to `figures.json`) id, title, caption and the reasons why something could not be drawn.
    Every paper has `verdicts`; `agreement` and `trends` are drawn where there are numbers for them.
    """
    rows, listed = claims["rows"], []
    with atomic_folder(folder) as temporary, plt.style.context(str(STYLE)):
        for figure in paper.figures:
            try:
                drawing, sheet, missing = draw(paper, figure, rows, claims, evidence)
            except ConfigError as error:
                raise ConfigError(f"{paper.file}: figures.{figure.id}: {error}") from None
            entry = {"id": figure.id, "title": figure.title, "caption": figure.caption, "missing": missing}
            listed.append({**entry, "drawn": drawing is not None})
            _save(drawing, sheet, temporary, figure.id)
        for name, title, (drawing, sheet) in overview.common(paper, claims):
            if name in {figure.id for figure in paper.figures}:
                raise ConfigError(f"{paper.file}: figures: '{name}' is the name of a figure every paper has")
            listed.append({"id": name, "title": title, "caption": "", "missing": [], "drawn": True})
            _save(drawing, sheet, temporary, name)
        write_json(temporary / LISTING, listed)
    return listed


def draw(
    paper: Paper, figure: Figure, rows: list[Row], claims: dict[str, Any], evidence: Evidence
) -> tuple[Drawing | None, Sheet | None, list[str]]:
    """Draw a declared figure; no drawing where none of its numbers is measured. Returns its data, and the missing numbers with reasons."""
    if figure.kind == "effects":
        chosen = {str(claim): label for label, claim in figure.series.items()}
        _check_trends(paper, chosen)
        drawing, sheet = overview.effects(figure.title, rows, claims, chosen)
        return drawing, sheet, [] if drawing else ["no trend of this paper is measured"]
    numbers = Numbers(paper, rows, evidence)
    if figure.kind == "heatmap":
        panels = numbers.panels(figure)
        missing = list(dict.fromkeys(reason for panel in panels for reason in panel.missing))
        panels = [panel for panel in panels if panel.values]
        drawing = drawings.heatmap(figure, panels) if panels else None
        return drawing, drawings.grid_sheet(figure, panels), missing
    series = numbers.series(figure.series, figure.kind)
    missing = list(dict.fromkeys(reason for one in series for reason in one.missing))
    series = [one for one in series if one.points]
    if not series:
        return None, None, missing
    painter: dict[str, Callable[..., Drawing]] = {
        "bar": drawings.bars,
        "scatter": drawings.scatter,
        "line": drawings.lines,
    }
    drawing = painter[figure.kind](series)
    drawings.label(drawing.axes[0], figure, series, numbers.level)
    return drawing, drawings.sheet(figure, series), missing


def _check_trends(paper: Paper, chosen: dict[str, str]) -> None:
    known = [claim.id for claim in paper.claims if claim.trend]
    for claim in chosen:
        if claim not in known:
            raise ConfigError(f"series: no claim with a trend is named '{claim}'{nearest(claim, known)}")


def _save(drawing: Drawing | None, sheet: Sheet | None, folder: Path, name: str) -> None:
    if drawing is None:
        return
    for suffix, metadata in METADATA.items():
        out = io.BytesIO()
        drawing.savefig(out, format=suffix, metadata=metadata)
        (folder / f"{name}.{suffix}").write_bytes(out.getvalue())
    plt.close(drawing)
    if sheet is not None:
        write_text(folder / f"{name}.csv", sheet.to_csv())
