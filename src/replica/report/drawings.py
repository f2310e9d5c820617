"""The kinds of declared figures: bars, scatter, lines and heat maps, with intervals and labelled axes."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

import matplotlib
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import EngFormatter, LogFormatter, LogLocator, NullFormatter

from replica.claims.numbers import significant, text
from replica.config.schema import Figure
from replica.report.points import Panel, Point, Reading, Series
from replica.report.sheets import Sheet

_MARKERS = "os^Dv<>Ph*"
_STYLES = ["-", "--", "-.", ":"]
#: More cells than this are not labelled with their numbers.
_LABELLED = 60
#: Series beyond this number move the legend out of the axes.
_INSIDE = 3


def bars(series: list[Series]) -> Drawing:
    """Grouped bars with intervals; the paper's number is a black mark across its bar."""
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
        heights = [p.y.value for p in one.points]
        axes.bar(places, heights, width * 0.92, label=None if alone else named(one.label), color=f"C{index % 8}")
        for place, point in zip(places, one.points, strict=True):
            if point.y.low is not None:
                axes.vlines(place, point.y.low, point.y.high, color="#444444", linewidth=1.2)
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
    """Labelled points with intervals along both axes; points without x are levels. The paper's own points are hollow."""
    drawing, axes = plt.subplots(figsize=(5.2, 3.6))
    for index, one in enumerate(series):
        colour, marker = f"C{index % 8}", _MARKERS[index % len(_MARKERS)]
        placed = [point for point in one.points if point.x is not None]
        for number, point in enumerate(placed):
            _mark(axes, point, colour, marker, named(one.label) if number == 0 else None)
            if point.label and point.label != one.label and not point.printed:
                place = (point.x.value, point.y.value)
                axes.annotate(point.label, place, xytext=(4, 3), textcoords="offset points", fontsize=7)
        _levels(axes, one, index)
    _hollow(axes, series)
    _legend(axes, len(series))
    return drawing


def lines(series: list[Series]) -> Drawing:
    """Curves with intervals, told apart by dashes as well as by colour; many points get a band, points without x are levels."""
    drawing, axes = plt.subplots(figsize=(5.2, 3.4))
    for index, one in enumerate(series):
        colour, style, marker = f"C{index % 8}", _STYLES[index % 4], _MARKERS[index % len(_MARKERS)]
        placed = [point for point in one.points if point.x is not None]
        _levels(axes, one, index)
        if not placed:
            continue
        xs, ys = [p.x.value for p in placed], [p.y.value for p in placed]
        few = len(placed) <= 12
        axes.plot(xs, ys, style, color=colour, marker=marker if few else "", label=named(one.label))
        bounded = [point for point in placed if point.y.low is not None]
        if few:
            for point in bounded:
                axes.vlines(point.x.value, point.y.low, point.y.high, color=colour, linewidth=1.1, alpha=0.8)
        elif bounded:
            edges = [[getattr(p.y, side) for p in bounded] for side in ("low", "high")]
            axes.fill_between([p.x.value for p in bounded], *edges, color=colour, alpha=0.18, linewidth=0)
        if one.named:
            axes.set_xticks(range(len(one.named)), one.named, rotation=35, ha="right")
    whole = sorted({p.x.value for one in series for p in one.points if p.x is not None and not one.named})
    if 0 < len(whole) <= 24 and all(x == int(x) for x in whole) and whole[-1] - whole[0] < 24:
        axes.set_xticks(whole, [f"{x:g}" for x in whole])  # layers, say: no half ones
    _legend(axes, len(series))
    return drawing


def heatmap(figure: Figure, panels: list[Panel]) -> Drawing:
    """Panels in a row with the same rows and one colour scale; cells without a number are grey."""
    longest = max(len(row) for row in panels[0].rows)
    widths = [min(4.2, max(1.3, 0.3 * len(panel.columns))) for panel in panels]
    height = max(1.2, (0.13 if len(panels[0].rows) > 30 else 0.2) * len(panels[0].rows))
    size = (0.07 * longest + sum(widths) + 1.4, height + 1.3)
    drawing, places = plt.subplots(1, len(panels), figsize=size, squeeze=False, sharey=True, layout="constrained")
    values = [value for panel in panels for row in panel.values for value in row if value is not None]
    positive = [value for value in values if value > 0]
    scale: Normalize = Normalize(min(values, default=0), max(values, default=1))
    if figure.log == "colour" and positive:
        scale = LogNorm(min(positive), max(positive))
    colours = matplotlib.colormaps["viridis"].with_extremes(bad="#DDDDDD")
    for axes, panel in zip(places.flat, panels, strict=True):
        cells = np.array([[np.nan if value is None else value for value in row] for row in panel.values], dtype=float)
        if isinstance(scale, LogNorm):
            cells[cells <= 0] = np.nan
        mesh = axes.pcolormesh(np.ma.masked_invalid(cells), cmap=colours, norm=scale, edgecolors="face", linewidth=0.2)
        axes.set_facecolor("#DDDDDD")
        axes.set_ylim(len(panel.rows), 0)
        axes.grid(visible=False)
        small = 6 if len(panel.rows) > 30 else 7
        axes.set_yticks(np.arange(len(panel.rows)) + 0.5, panel.rows, fontsize=small)
        every = max(1, -(-len(panel.columns) // (12 if widths[0] > 2 else 6)))
        shown = range(0, len(panel.columns), every)
        wordy = sum(len(panel.columns[at]) + 2 for at in shown) * 0.07 > widths[0]
        names = [panel.columns[at] for at in shown]
        turned = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if wordy else {}
        axes.set_xticks([at + 0.5 for at in shown], names, fontsize=7, **turned)
        axes.set_title(panel.label if len(panels) > 1 else "", fontsize=9)
        axes.set_xlabel(figure.x)
        _numbers(axes, cells, scale)
    places[0, 0].set_ylabel(figure.y)
    bar = drawing.colorbar(mesh, ax=places.ravel().tolist(), shrink=min(1.0, 2.6 / size[1] + 0.3))
    bar.solids.set_rasterized(False)
    if isinstance(scale, LogNorm):
        plain_powers(bar.ax.yaxis)
    notes = [figure.colour, _runs(panel.seeds for panel in panels)]
    bar.set_label(
        "\n".join(part for note in notes for part in textwrap.wrap(note, max(16, round(9 * size[1])))), fontsize=8
    )
    drawing.suptitle(figure.title, x=0.01, ha="left", fontsize=10)
    return drawing


def label(axes: Axes, figure: Figure, series: list[Series], level: float) -> None:
    """Write title and axes: their quantities, and of scores also metric, data set, split, seeds and interval; set log scales."""
    axes.set_title(figure.title)
    points = [point for one in series for point in one.points]
    on_x = [point.x for point in points if point.x is not None]
    across = _axis(figure.x, on_x, level, 60)
    if figure.kind != "bar" or figure.x:
        axes.set_xlabel(across)
    axes.set_ylabel(_axis(figure.y, [point.y for point in points], level, 46))
    for letter, axis in (("x", axes.xaxis), ("y", axes.yaxis)):
        if letter in figure.log:
            getattr(axes, f"set_{letter}scale")("log")
            low, high = axis.get_view_interval()
            axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 200 * low else (1,)))
            axis.set_major_formatter(EngFormatter(sep=""))
            axis.set_minor_formatter(NullFormatter())


def plain_powers(axis: Axis) -> None:
    """Write the numbers of a logarithmic axis as 10 k and the like; matplotlib's own powers of ten are formulas."""
    axis.set_major_formatter(EngFormatter(sep=""))
    axis.set_minor_formatter(LogFormatter())


def named(label: str) -> str:
    """Return a label as the legend shows it: matplotlib leaves out those that begin with an underscore."""
    return f" {label}" if label.startswith("_") else label


def sheet(figure: Figure, series: list[Series]) -> Sheet:
    """Return a figure's data: one line a point, with intervals, seeds and the paper's number where there are."""
    header = [
        "series",
        "point",
        "x",
        "x low",
        "x high",
        "y",
        "y low",
        "y high",
        "seeds",
        "interval over",
        "scored",
        "paper",
    ]
    return Sheet(figure.title, header, [_line(one, point) for one in series for point in one.points])


def grid_sheet(figure: Figure, panels: list[Panel]) -> Sheet:
    """Return a heat map's data: one line a cell."""
    rows = [
        [panel.label, row, column, _text(value), str(panel.seeds)]
        for panel in panels
        for row, values in zip(panel.rows, panel.values, strict=True)
        for column, value in zip(panel.columns, values, strict=True)
    ]
    return Sheet(figure.title, ["panel", "row", "column", "value", "seeds"], rows)


def _line(one: Series, point: Point) -> list[str]:
    x = [_text(v) for v in (point.x.value, point.x.low, point.x.high)] if point.x is not None else ["", "", ""]
    y = [_text(v) for v in (point.y.value, point.y.low, point.y.high)]
    scored = "; ".join(sorted(point.y.scored))
    return [
        one.label, point.label, *x, *y, str(point.y.seeds or ""), point.y.over, scored, _text(point.paper),
    ]  # fmt: skip


def _text(value: float | None) -> str:
    return text(significant(value))


def _mark(axes: Axes, point: Point, colour: str, marker: str, name: str | None) -> None:
    x, y = point.x, point.y
    if y.low is not None:
        axes.vlines(x.value, y.low, y.high, color=colour, linewidth=1.1, alpha=0.8)
    if x.low is not None:
        axes.hlines(y.value, x.low, x.high, color=colour, linewidth=1.1, alpha=0.8)
    face = "none" if point.printed else colour
    axes.plot([x.value], [y.value], marker, color=colour, markerfacecolor=face, label=name)


def _levels(axes: Axes, one: Series, index: int) -> None:
    """Draw a series' points without x as horizontal lines with a band for the interval."""
    for point in one.points:
        if point.x is None:
            axes.axhline(point.y.value, color=f"C{index % 8}", linestyle=_STYLES[index % 4], label=named(one.label))
            if point.y.low is not None:
                axes.axhspan(point.y.low, point.y.high, color=f"C{index % 8}", alpha=0.12, linewidth=0)


def _hollow(axes: Axes, series: list[Series]) -> None:
    if any(point.printed for one in series for point in one.points):
        axes.plot([], [], "o", color="#444444", markerfacecolor="none", label="hollow: the paper's score")


def _legend(axes: Axes, count: int) -> None:
    if count > _INSIDE:
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
    else:
        axes.legend()


def _numbers(axes: Axes, cells: np.ndarray, scale: Normalize) -> None:
    """Write the numbers into the cells of a small map."""
    if cells.size > _LABELLED:
        return
    for (row, column), value in np.ndenumerate(cells):
        if not np.isnan(value):
            shade = "white" if scale(value) < 0.6 else "black"
            axes.text(column + 0.5, row + 0.5, f"{value:.2g}", ha="center", va="center", fontsize=6.5, color=shade)


def _axis(name: str, readings: list[Reading], level: float, width: int) -> str:
    """Return an axis' text: its name; metric, data set and split of its scores; seeds and interval."""
    scored = sorted({score for reading in readings for score in reading.scored})
    shown = "; ".join(scored) if len(scored) <= 2 else f"{len(scored)} scores, see the CSV file"
    runs = _runs(reading.seeds for reading in readings)
    over = sorted({reading.over for reading in readings if reading.over})
    if over:
        runs = ", ".join(filter(None, [runs, f"{level * 100:g}% interval over {' or '.join(over)}"]))
    return "\n".join(part for note in (name, shown, runs) for part in textwrap.wrap(note, width))


def _runs(seeds: Iterable[int]) -> str:
    counts = sorted({count for count in seeds if count})
    if not counts:
        return ""
    if counts == [1]:
        return "one seed"
    return f"mean of {counts[0]} seeds" if len(counts) == 1 else f"mean of {counts[0]} to {counts[-1]} seeds"
