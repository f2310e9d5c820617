"""Every paper's file: it loads, all of them plan together, and what is measured of a paper is shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from replica.claims.cells import by_cell, cells, row_name
from replica.claims.expressions import names, split_list
from replica.config import load_project
from replica.plan import build_plan

ROOT = Path(__file__).parents[2]
PROJECT = load_project(ROOT, disabled=[], quick=False)
PAPERS = list(PROJECT.papers)


def _measured(paper):
    """Claims of a paper with a cell that a measurement gives."""
    found = set()
    for claim in paper.claims:
        expressions = [cell.ours for cell in cells(claim) if cell.ours is not None]
        if any(not name.startswith("runs.") for text in expressions for name in names(text)):
            found.add(claim.id)
    return found


def _expressions(series):
    for entry in series.values():
        for text in entry.values() if isinstance(entry, dict) else [entry]:
            yield from split_list(text)


def _shows_a_measurement(paper, figure):
    claims = {claim.id for claim in paper.claims}
    for text in _expressions(figure.series):
        if text in claims:
            if text in _measured(paper):
                return True
            continue
        for name in names(text):
            space, _, rest = name.partition(".")
            if space == "ours" and any(rest == claim or rest.startswith(f"{claim}.") for claim in _measured(paper)):
                return True
            if any(name.startswith(f"{measurement}.") for measurement in paper.measurements):
                return True
    return False


@pytest.mark.parametrize("scale", ["smoke", "laptop", "paper"])
def test_all_papers_plan_together(scale):
    made = build_plan(PROJECT, scale)
    assert sorted(made.named) == PAPERS
    for run in made.runs.values():
        assert run.papers <= set(PAPERS)
        assert all(parent in made.runs for parent in run.parents.values())


@pytest.mark.parametrize("name", PAPERS)
def test_a_structural_number_is_measured_or_says_why_not(name):
    paper = PROJECT.paper(name)
    silent = [
        row_name(claim, cell)
        for claim in paper.claims
        if claim.evidence == "structural"
        for cell in cells(claim)
        if cell.ours is None and not by_cell(claim.not_run, cell.keys) and not by_cell(claim.blocked, cell.keys)
    ]
    assert silent == []


@pytest.mark.parametrize("name", [name for name in PAPERS if _measured(PROJECT.paper(name))])
def test_what_is_measured_stands_in_a_table_and_in_a_figure(name):
    paper = PROJECT.paper(name)
    tabled = {claim for table in paper.tables for claim in table.claims}
    assert _measured(paper) & tabled, "no table shows a measured claim"
    assert any(_shows_a_measurement(paper, figure) for figure in paper.figures), "no figure shows a measurement"
