"""`replica status`: runs by state, folded where there are many, and each paper's claims by evidence and verdict."""

from __future__ import annotations

import json
import sys

import pytest

from replica.claims.ledger import to_json
from replica.cli import status as module
from replica.config import load_project
from replica.paths import Layout
from replica.plan import build_plan

from .small_project import paper, write_project


def _row(name, evidence, verdict):
    return {"paper": name, "claim": "c", "evidence": evidence, "verdict": verdict, "scale": "laptop"}


ROWS = [
    *[_row("one", "structural", "match")] * 3,
    _row("one", "structural", "not-run"),
    _row("one", "trend", "reproduced"),
    *[_row("one", "full", "not-run")] * 2,
    _row("two", "structural", "worse"),
    _row("two", "full", "blocked"),
    _row("elsewhere", "full", "blocked"),
]


@pytest.fixture
def folder(tmp_path):
    return write_project(tmp_path, paper(), paper(id="two"), paper(id="three"))


def _status(folder, capsys, monkeypatch, *arguments):
    monkeypatch.setattr(module.console, "width", 200)
    monkeypatch.setattr(sys, "argv", ["replica", "--root", str(folder), "status", *arguments])
    from replica.cli import main

    with pytest.raises(SystemExit) as stopped:
        main()
    said = capsys.readouterr()
    return stopped.value.code or 0, said.out, said.err


def _ledger(folder, rows=ROWS):
    path = folder / "results" / "claims.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(to_json(rows), encoding="utf-8")
    return path


def _line(text, name):
    [line] = [line for line in text.splitlines() if line.replace("│", " ").split()[:1] == [name]]
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_claims_are_counted_by_paper_evidence_and_verdict(folder, capsys, monkeypatch):
    _ledger(folder)
    code, out, _ = _status(folder, capsys, monkeypatch)
    assert code == 0
    claims = out[out.index("claims at scale laptop") :]
    assert _line(claims, "one") == ["one", "match 3, not-run 1", "reproduced 1", "not-run 2"]
    assert _line(claims, "two") == ["two", "worse 1", "", "blocked 1"]
    assert _line(claims, "all") == ["all", "match 3, worse 1, not-run 1", "reproduced 1", "not-run 2, blocked 1"]
    assert "no row in the ledger: three" in claims and "elsewhere" not in claims


def test_the_run_list_stays_for_few_runs_and_without_a_ledger_one_line_says_so(folder, capsys, monkeypatch):
    code, out, _ = _status(folder, capsys, monkeypatch, "one")
    assert code == 0 and "runs at scale laptop" in out
    made = build_plan(load_project(folder, papers=["one"]), None)
    for run in made.runs.values():
        assert (run.id in out) == bool(run.seeds)
    assert "not run 9" in out and "no ledger yet" in out


def test_many_runs_stand_by_paper_and_those_that_ask_for_a_look_by_name(folder, capsys, monkeypatch):
    monkeypatch.setattr(module, "MANY", 2)
    made = build_plan(load_project(folder), "laptop")
    chosen = next(run for run in made.runs.values() if len(run.seeds) == 3)
    resume = Layout(folder).resume("laptop", chosen.id, 1)
    resume.mkdir(parents=True)
    (resume / "process.json").write_text(json.dumps({"host": "other-host", "pid": 1}), encoding="utf-8")
    code, out, _ = _status(folder, capsys, monkeypatch)
    assert code == 0
    # the three papers ask for the same five runs with nine jobs, which count for each of them
    assert (
        _line(out, "one")
        == ["one", "5", "not run 8, started on other-host 1"]
        == [_line(out, "two")[0].replace("two", "one"), *_line(out, "two")[1:]]
    )
    assert [run.id for run in made.runs.values() if run.id in out] == [chosen.id]
    assert "1: started on other-host" in out
    _, out, _ = _status(folder, capsys, monkeypatch, "--runs")
    assert all(run.id in out for run in made.runs.values() if run.seeds)


@pytest.mark.parametrize("content", ["{}", "[1]", '[{"paper": "one"}]'])
def test_what_is_no_ledger_is_one_line(folder, capsys, monkeypatch, content):
    _ledger(folder).write_text(content, encoding="utf-8")
    code, _, err = _status(folder, capsys, monkeypatch)
    assert code == 2 and len(err.strip().splitlines()) == 1 and "not a ledger" in err


def test_a_named_ledger_that_is_not_there_is_an_error(folder, capsys, monkeypatch):
    code, _, err = _status(folder, capsys, monkeypatch, "--ledger", str(folder / "none.json"))
    assert code == 2 and "none.json: no such file" in err


def test_the_pinned_ledger_is_pointed_at(folder, capsys, monkeypatch):
    pinned = folder / "results" / "pinned"
    pinned.mkdir(parents=True)
    (pinned / "claims.json").write_text(to_json(ROWS), encoding="utf-8")
    assert "counts what is pinned" in _status(folder, capsys, monkeypatch)[1]
    assert "match 3" in _status(folder, capsys, monkeypatch, "--ledger", str(pinned / "claims.json"))[1]
