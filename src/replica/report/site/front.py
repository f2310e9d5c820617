"""The front page: the map of all papers by family and evidence, with its search and filters."""

from __future__ import annotations

from collections import Counter
from typing import Any

from replica.claims.verdicts import ALL
from replica.config.expand import SECTIONS, expand_section
from replica.config.schema import Paper
from replica.report.scorecard import EVIDENCE, counts
from replica.report.site.pages import Pages, Source


def render(pages: Pages, source: Source) -> str:
    """Return the front page; it is written above the folder of the others."""
    tallied = counts(source.rows)
    families: dict[str, list[dict[str, Any]]] = {}
    for paper in sorted(source.papers, key=lambda paper: (paper.families[0], paper.id)):
        tallies = tallied.get(paper.id, {})
        cells = {kind: ordered(tallies.get(kind, Counter())) for kind in EVIDENCE}
        tokens = [f"{kind}:{verdict}" for kind in EVIDENCE for verdict, _ in cells[kind]]
        families.setdefault(paper.families[0], []).append(
            {"paper": paper, "cells": cells, "tokens": tokens, **subjects(paper)}
        )
    entries = [entry for group in families.values() for entry in group]
    totals = {kind: sum((tallied[p].get(kind, Counter()) for p in tallied), Counter()) for kind in EVIDENCE}
    filters = {name: sorted({item for entry in entries for item in entry[name]}) for name in FILTERS}
    return pages.render(
        "",
        "front.html.j2",
        families=families,
        number=len(entries),
        total=len(source.rows),
        totals={kind: ordered(counter) for kind, counter in totals.items()},
        filters=filters,
        verdicts=[verdict for verdict in ALL if any(totals[kind][verdict] for kind in EVIDENCE)],
    )


#: Filters of the map, in addition to evidence and verdict.
FILTERS = ("families", "methods", "tasks", "backbones")


def subjects(paper: Paper) -> dict[str, list[str]]:
    """Return families, methods, tasks and backbones that a paper's file names in its runs and measurements."""
    names: dict[str, set[str]] = {name: set() for name in FILTERS}
    names["families"].update(paper.families)
    for section in SECTIONS:
        for entry in expand_section(paper, section).values():
            names["methods"].update(method_names(entry.methods))
            names["tasks"].update(filter(None, [entry.task, *(entry.evaluate or [])]))
            names["backbones"].update(filter(None, [entry.model]))
    for item in paper.measurements.values():
        names["methods"].update(method_names(item.methods))
        names["backbones"].update(filter(None, [item.model]))
    return {name: sorted(values) for name, values in names.items()}


def method_names(references: list[dict[str, Any] | str]) -> list[str]:
    """Return the names of methods as configuration lists them."""
    return [item if isinstance(item, str) else str(item["name"]) for item in references]


def ordered(counter: Counter[str]) -> list[tuple[str, int]]:
    """Return (verdict, number) in the order of the verdicts."""
    return [(verdict, counter[verdict]) for verdict in ALL if counter[verdict]]
