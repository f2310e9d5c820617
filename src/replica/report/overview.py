"""The figures that every paper has: effects of its trends, verdicts, and how far ours lies from the paper's numbers."""

from __future__ import annotations

from typing import Any

from matplotlib import pyplot as plt
from matplotlib.figure import Figure as Drawing

from replica.claims.compare import Row
from replica.claims.numbers import significant, text
from replica.claims.verdicts import ALL
from replica.config.schema import Paper
from replica.report.names import AGREEMENT, EFFECTS, VERDICTS
from replica.report.sheets import Sheet

#: A drawing and its data; None where there are no numbers.
Drawn = tuple[Drawing | None, Sheet | None]

_VERDICT_COLOURS = {
    "match": "#009E73", "better": "#56B4E9", "worse": "#D55E00", "within-noise": "#E69F00", "paper-inconsistent": "#CC79A7",
    "reproduced": "#009E73", "inconclusive": "#E69F00", "contradicted": "#D55E00", "not-run": "#CCCCCC", "blocked": "#888888",
}  # fmt: skip
#: More rows than this do not fit a page; the ones furthest from the paper are kept.
MOST_ROWS = 60


def effects(title: str, rows: list[Row], claims: dict[str, Any], chosen: dict[str, str] | None = None) -> Drawn:
    """Every measured trend's effect with interval, values per seed and margin, one panel per unit.

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
        return None, None
    data = Sheet(title, ["trend", "label", "effect", "low", "high", "unit", "margin", "verdict", "by seed"], [])
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
            numbers = [text(row[key]) for key in ("our_value", "low", "high")]
            shown = [unit or "", text(margin), row["verdict"], " ".join(text(value) for value in values)]
            data.rows.append([row["claim"].removesuffix(":trend"), labels[row["claim"]], *numbers, *shown])
        axes.set_yticks(range(len(group)), [f"{labels[row['claim']]}\n{row['verdict']}" for row in group])
        axes.set_ylim(len(group) - 0.5, -0.5)
        axes.set_xlabel(f"effect ({unit}); dashed: margin, bar: interval, ticks: seeds")
        axes.grid(axis="y", visible=False)
    panels[0, 0].set_title(title)
    return drawing, data


def verdict_bars(title: str, rows: list[Row]) -> Drawn:
    """How many rows got which verdict, by evidence: there is always something to draw."""
    kinds = [kind for kind in ("structural", "trend", "full") if any(row["evidence"] == kind for row in rows)]
    drawing, axes = plt.subplots(figsize=(6.2, 0.9 + 0.45 * max(1, len(kinds))))
    left = dict.fromkeys(kinds, 0)
    data = Sheet(title, ["evidence", "verdict", "rows"], [])
    for verdict in ALL:
        numbers = [sum(row["evidence"] == kind and row["verdict"] == verdict for row in rows) for kind in kinds]
        if any(numbers):
            start = [left[kind] for kind in kinds]
            axes.barh(kinds, numbers, left=start, color=_VERDICT_COLOURS[verdict], label=verdict, edgecolor="white")
            for kind, number in zip(kinds, numbers, strict=True):
                if number:
                    data.rows.append([kind, verdict, str(number)])
                    axes.text(left[kind] + number / 2, kind, str(number), ha="center", va="center", fontsize=7)
                left[kind] += number
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("rows of the ledger")
    axes.set_title(title)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return drawing, data


def agreement(title: str, rows: list[Row]) -> Drawn:
    """How far ours lies from the paper's number, in per cent, for every cell with both."""
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
        return None, None
    gaps = {row["claim"]: 100 * (row["our_value"] - row["paper_value"]) / abs(row["paper_value"]) for row in both}
    if len(both) > MOST_ROWS:
        furthest = set(sorted(gaps, key=lambda name: -abs(gaps[name]))[:MOST_ROWS])
        title += f" (the {MOST_ROWS} furthest of {len(both)})"
        both = [row for row in both if row["claim"] in furthest]
    data = Sheet(title, ["claim", "paper", "ours", "percent apart", "verdict"], [])
    drawing, axes = plt.subplots(figsize=(6.2, 1.0 + 0.19 * len(both)))
    for place, row in enumerate(both):
        gap = gaps[row["claim"]]
        axes.plot(gap, place, "o", color=_VERDICT_COLOURS[row["verdict"]], markeredgecolor="black")
        numbers = [text(row["paper_value"]), text(row["our_value"]), text(significant(gap))]
        data.rows.append([row["claim"], *numbers, row["verdict"]])
    axes.axvline(0, color="black", linewidth=1)
    widest = max(abs(gaps[row["claim"]]) for row in both)
    if widest > 20:
        axes.set_xscale("symlog", linthresh=1)
        axes.xaxis.set_major_formatter("{x:g}")
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
    return drawing, data


def common(paper: Paper, claims: dict[str, Any]) -> list[tuple[str, str, Drawn]]:
    """Return name, title and drawing of those figures of every paper for which there are numbers."""
    rows = claims["rows"]
    titles = {VERDICTS: "Verdicts", AGREEMENT: "Ours beside the paper's numbers", EFFECTS: "Trends"}
    drawn = [(VERDICTS, verdict_bars(titles[VERDICTS], rows)), (AGREEMENT, agreement(titles[AGREEMENT], rows))]
    if not any(figure.kind == "effects" for figure in paper.figures):
        drawn.append((EFFECTS, effects(titles[EFFECTS], rows, claims)))
    return [(name, titles[name], drawing) for name, drawing in drawn if drawing[0] is not None]
