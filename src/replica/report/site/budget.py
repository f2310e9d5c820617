"""'Which method fits my budget': every measured setting in a table that the reader's limits narrow."""

from __future__ import annotations

from replica.report.site.comparisons import AXES, Point
from replica.report.site.pages import Pages, Source


def write(pages: Pages, source: Source, points: list[Point]) -> None:
    """Write the budget page: settings in the order of backbone, task and score."""
    entries = sorted(points, key=_order)
    pages.write(
        "budget.html",
        "budget.html.j2",
        points=entries,
        axes=AXES,
        backbones=sorted({point.backbone for point in entries}),
        tasks=sorted({point.task for point in entries if point.task}),
    )


def _order(point: Point) -> tuple[str, str, float, float, str]:
    score = 0.0 if point.score is None else point.score
    best = -score if point.direction == "higher" else score
    return (point.backbone, point.task or "~", best, point.costs.get("trained", float("inf")), point.label)
