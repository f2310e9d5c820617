"""A paper's figures, drawn from the same numbers as its tables, as SVG, PNG and PDF that come out the same every time."""

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
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from replica.claims.compare import Row
from replica.claims.evidence import Evidence
from replica.claims.verdicts import ALL
from replica.config.schema import Figure, Paper
from replica.errors import ConfigError, nearest
from replica.files import atomic_folder, write_json
from replica.report.points import Numbers, Series

STYLE = resources.files("replica.report") / "templates" / "replica.mplstyle"
#: Nothing in a file may say when it was made.
_METADATA: dict[str, dict[str, Any]] = {
    "svg": {"Date": None, "Creator": None},
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
_VERDICT_COLOURS = {
    "match": "#009E73", "better": "#56B4E9", "worse": "#D55E00", "within-noise": "#E69F00", "paper-inconsistent": "#CC79A7",
    "reproduced": "#009E73", "inconclusive": "#E69F00", "contradicted": "#D55E00", "not-run": "#CCCCCC", "blocked": "#888888",
}  # fmt: skip
#: More rows than this do not fit a page; the ones furthest from the paper are kept.
MOST_ROWS = 60


def write(paper: Paper, claims: dict[str, Any], evidence: Evidence, folder: Path | str) -> list[dict[str, Any]]:
    """Draw a paper's figures into a folder that is replaced whole.

    Returns (and writes to `figures.json`) id, title, caption and what could not be drawn because it was not measured.
    Every paper has `verdicts`; `agreement` and `trends` are drawn where there are numbers for them.
    """
    rows, listed = claims["rows"], []
    with atomic_folder(folder) as temporary, plt.style.context(str(STYLE)):
        for figure in paper.figures:
            try:
                drawing, missing = draw(paper, figure, rows, claims, evidence)
            except ConfigError as error:
                raise ConfigError(f"config/papers/{paper.id}.yaml: figures.{figure.id}: {error}") from None
            entry = {"id": figure.id, "title": figure.title, "caption": figure.caption, "missing": missing}
            listed.append({**entry, "drawn": drawing is not None})
            _save(drawing, temporary, figure.id)
        for name, title, drawing in _common(paper, claims):
            if name in {figure.id for figure in paper.figures}:
                raise ConfigError(
                    f"config/papers/{paper.id}.yaml: figures: '{name}' is the name of a figure every paper has"
                )
            listed.append({"id": name, "title": title, "caption": "", "missing": [], "drawn": True})
            _save(drawing, temporary, name)
        write_json(temporary / "figures.json", listed)
    return listed


def draw(
    paper: Paper, figure: Figure, rows: list[Row], claims: dict[str, Any], evidence: Evidence
) -> tuple[Drawing | None, list[str]]:
    """Draw a declared figure; None where nothing of it is measured, and what is missing with its reasons."""
    if figure.kind == "effects":
        chosen = {str(claim): label for label, claim in figure.series.items()}
        _check_trends(paper, chosen)
        drawing = effects(figure.title, rows, claims, chosen)
        return drawing, [] if drawing else ["no trend of this paper is measured"]
    series = Numbers(paper, rows, evidence).series(figure.series, figure.kind)
    missing = list(dict.fromkeys(reason for one in series for reason in one.missing))
    series = [one for one in series if one.points]
    if not series:
        return None, missing
    painter: dict[str, Callable[..., Drawing]] = {"bar": bars, "scatter": scatter, "line": lines}
    drawing = painter[figure.kind](series)
    axes = drawing.axes[0]
    axes.set_title(figure.title)
    if figure.kind != "bar" or figure.x:
        axes.set_xlabel(figure.x)
    axes.set_ylabel(figure.y)
    for letter, axis in (("x", axes.xaxis), ("y", axes.yaxis)):
        if letter in figure.log:
            getattr(axes, f"set_{letter}scale")("log")
            low, high = axis.get_view_interval()
            axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 200 * low else (1,)))
            axis.set_major_formatter(EngFormatter(sep=""))
            axis.set_minor_formatter(NullFormatter())
    return drawing, missing


def _check_trends(paper: Paper, chosen: dict[str, str]) -> None:
    known = [claim.id for claim in paper.claims if claim.trend]
    for claim in chosen:
        if claim not in known:
            raise ConfigError(f"series: no claim with a trend is named '{claim}'{nearest(claim, known)}")


def bars(series: list[Series]) -> Drawing:
    """Grouped bars; the paper's number is a black mark across its bar."""
    labels = list(dict.fromkeys(point.label for one in series for point in one.points))
    alone = all(len(one.points) == 1 and one.points[0].label == one.label for one in series)
    width = 0.8 if alone else 0.8 / len(series)
    drawing, axes = plt.subplots(
        figsize=(max(4.5, 0.55 * len(labels) * (1 if alone else max(1, len(series) * 0.5)) + 1.5), 3.4)
    )
    marked = False
    for index, one in enumerate(series):
        offset = 0.0 if alone else (index - (len(series) - 1) / 2) * width
        places = [labels.index(point.label) + offset for point in one.points]
        axes.bar(
            places, [p.y for p in one.points], width * 0.92, label=None if alone else one.label, color=f"C{index % 8}"
        )
        for place, point in zip(places, one.points, strict=True):
            if point.paper is not None:
                axes.hlines(point.paper, place - width * 0.48, place + width * 0.48, color="black", linewidth=2)
                marked = True
    if marked:
        axes.plot([], [], color="black", linewidth=2, label="the paper's number")
    long = sum(len(label) for label in labels) > 50
    axes.set_xticks(range(len(labels)), labels, rotation=35 if long else 0, ha="right" if long else "center")
    axes.grid(axis="x", visible=False)
    if marked or not alone:
        axes.legend()
    return drawing


def scatter(series: list[Series]) -> Drawing:
    """Labelled points."""
    drawing, axes = plt.subplots(figsize=(5.2, 3.6))
    for one, marker in zip(series, "os^Dv<>P" * len(series), strict=False):
        axes.plot([p.x for p in one.points], [p.y for p in one.points], marker, label=one.label)
        for point in one.points:
            if point.label and point.label != one.label:
                axes.annotate(point.label, (point.x, point.y), xytext=(4, 3), textcoords="offset points", fontsize=7)
    axes.legend()
    return drawing


def lines(series: list[Series]) -> Drawing:
    """Curves, told apart by dashes as well as by colour."""
    drawing, axes = plt.subplots(figsize=(5.2, 3.4))
    styles = ["-", "--", "-.", ":"] * len(series)
    for one, style in zip(series, styles, strict=False):
        marker = "o" if len(one.points) <= 12 else ""
        axes.plot([p.x for p in one.points], [p.y for p in one.points], style, marker=marker, label=one.label)
    axes.legend()
    return drawing


def effects(
    title: str, rows: list[Row], claims: dict[str, Any], chosen: dict[str, str] | None = None
) -> Drawing | None:
    """Every measured trend's effect with interval, values per seed and margin, one panel per unit; None where there is none.

    `chosen` (claim: label) picks and orders the trends; all of them where it is empty.
    """
    measured = [row for row in rows if row["evidence"] == "trend" and row["our_value"] is not None]
    labels = {row["claim"]: row["claim"].removesuffix(":trend") for row in measured}
    if chosen:
        labels = {f"{claim}:trend": label for claim, label in chosen.items()}
        order = list(labels)
        measured = sorted(
            (row for row in measured if row["claim"] in labels), key=lambda row: order.index(row["claim"])
        )
    if not measured:
        return None
    units = list(dict.fromkeys(row["unit"] for row in measured))
    sizes = [sum(row["unit"] == unit for row in measured) for unit in units]
    height = 0.9 + sum(0.42 * size + 0.55 for size in sizes)
    drawing, panels = plt.subplots(
        len(units), 1, figsize=(6.2, height), squeeze=False, gridspec_kw={"height_ratios": sizes}, layout="constrained"
    )
    for axes, unit in zip(panels[:, 0], units, strict=True):
        group = [row for row in measured if row["unit"] == unit]
        for place, row in enumerate(group):
            detail = claims["trends"].get(row["claim"].removesuffix(":trend"), {})
            colour = _VERDICT_COLOURS[row["verdict"]]
            if row["low"] is not None:
                axes.hlines(place, row["low"], row["high"], color=colour, linewidth=3)
            axes.plot(row["our_value"], place, "o", color=colour, markeredgecolor="black", zorder=3)
            values = detail.get("effects", [])
            axes.plot(values, [place + 0.22] * len(values), "|", color="#555555", markersize=6)
            margin = detail.get("margin", 0.0)
            axes.plot([margin, margin], [place - 0.4, place + 0.4], color="black", linestyle="--", linewidth=1.2)
        axes.set_yticks(range(len(group)), [f"{labels[row['claim']]}\n{row['verdict']}" for row in group])
        axes.set_ylim(len(group) - 0.5, -0.5)
        axes.set_xlabel(f"effect ({unit}); dashed: margin, bar: interval, ticks: seeds")
        axes.grid(axis="y", visible=False)
    panels[0, 0].set_title(title)
    return drawing


def verdict_bars(title: str, rows: list[Row]) -> Drawing:
    """How many rows got which verdict, by evidence: there is always something to draw."""
    kinds = [kind for kind in ("structural", "trend", "full") if any(row["evidence"] == kind for row in rows)]
    drawing, axes = plt.subplots(figsize=(6.2, 0.9 + 0.45 * max(1, len(kinds))))
    left = dict.fromkeys(kinds, 0)
    for verdict in ALL:
        numbers = [sum(row["evidence"] == kind and row["verdict"] == verdict for row in rows) for kind in kinds]
        if any(numbers):
            start = [left[kind] for kind in kinds]
            axes.barh(kinds, numbers, left=start, color=_VERDICT_COLOURS[verdict], label=verdict, edgecolor="white")
            for kind, number in zip(kinds, numbers, strict=True):
                if number:
                    axes.text(left[kind] + number / 2, kind, str(number), ha="center", va="center", fontsize=7)
                left[kind] += number
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("rows of the ledger")
    axes.set_title(title)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return drawing


def agreement(title: str, rows: list[Row]) -> Drawing | None:
    """How far ours lies from the paper's number, in per cent, for every cell with both; None where there is none."""
    both = [
        row
        for row in rows
        if row["evidence"] != "trend"
        and row["verdict"] not in ("not-run", "blocked")
        and isinstance(row["paper_value"], int | float)
        and row["our_value"] is not None
        and row["paper_value"] != 0
    ]
    if not both:
        return None
    gaps = {row["claim"]: 100 * (row["our_value"] - row["paper_value"]) / abs(row["paper_value"]) for row in both}
    if len(both) > MOST_ROWS:
        kept = set(sorted(gaps, key=lambda name: -abs(gaps[name]))[:MOST_ROWS])
        title += f" (the {MOST_ROWS} furthest of {len(both)})"
        both = [row for row in both if row["claim"] in kept]
    drawing, axes = plt.subplots(figsize=(6.2, 1.0 + 0.19 * len(both)))
    for place, row in enumerate(both):
        axes.plot(gaps[row["claim"]], place, "o", color=_VERDICT_COLOURS[row["verdict"]], markeredgecolor="black")
    axes.axvline(0, color="black", linewidth=1)
    widest = max(abs(gaps[row["claim"]]) for row in both)
    if widest > 20:
        axes.set_xscale("symlog", linthresh=1)
    else:
        axes.set_xlim(-1.15 * max(widest, 0.5), 1.15 * max(widest, 0.5))
    axes.set_yticks(range(len(both)), [row["claim"] for row in both], fontsize=7)
    axes.set_ylim(len(both) - 0.4, -0.6)
    axes.set_xlabel("ours against the paper's number, %")
    axes.set_title(title)
    for verdict in ALL:
        if any(row["verdict"] == verdict for row in both):
            axes.plot([], [], "o", color=_VERDICT_COLOURS[verdict], markeredgecolor="black", label=verdict)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return drawing


def _common(paper: Paper, claims: dict[str, Any]) -> list[tuple[str, str, Drawing]]:
    rows = claims["rows"]
    titles = {"verdicts": "Verdicts", "agreement": "Ours beside the paper's numbers", "trends": "Trends"}
    drawn = [("verdicts", verdict_bars(titles["verdicts"], rows)), ("agreement", agreement(titles["agreement"], rows))]
    if not any(figure.kind == "effects" for figure in paper.figures):
        drawn.append(("trends", effects(titles["trends"], rows, claims)))
    return [(name, titles[name], drawing) for name, drawing in drawn if drawing is not None]


def _save(drawing: Drawing | None, folder: Path, name: str) -> None:
    if drawing is None:
        return
    for suffix, metadata in _METADATA.items():
        out = io.BytesIO()
        drawing.savefig(out, format=suffix, metadata=metadata)
        (folder / f"{name}.{suffix}").write_bytes(out.getvalue())
    plt.close(drawing)
