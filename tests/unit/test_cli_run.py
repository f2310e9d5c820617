"""`replica run`: which call of Snakemake a name becomes, what it counts as its jobs, and how it ends."""

from __future__ import annotations

import copy
import sys
from argparse import Namespace

import pytest
import yaml

from replica.claims.compare import COLUMNS
from replica.cli import run as module
from replica.cli import terminal
from replica.cli.terminal import plain_console
from replica.config import load_project
from replica.errors import ConfigError
from replica.plan import build_plan
from replica.seals import write_sealed

from .small_project import paper, write_project


@pytest.fixture
def folder(tmp_path):
    """Two enabled papers; the second one's claim reads one arm alone."""
    other = paper(id="two")
    other["claims"] = [copy.deepcopy(other["claims"][0])]
    other["claims"][0].update(id="plain-score")
    other["claims"][0]["trend"].update(effect="runs.plain.words.accuracy", quick=False)
    return write_project(tmp_path, paper(), other)


def _arguments(folder, *names, **changes):
    given = {"scale": "laptop", "all": False, "profile": None, "dry_run": False, "snakemake": None, **changes}
    return Namespace(root=str(folder), names=list(names), **given)


@pytest.fixture
def call(folder, monkeypatch):
    """Run the verb with a stand-in for Snakemake; returns status, its arguments and what was printed."""

    def made(code, *names, **changes):
        console = plain_console(record=True, width=200, force_terminal=False)
        for each in (module, terminal):
            monkeypatch.setattr(each, "console", console)
        seen = []

        def command(*arguments):
            seen.append(_command(*arguments)[3:])
            return [sys.executable, "-c", code]

        monkeypatch.setattr(module, "_command", command)
        monkeypatch.setattr(module, "EVERY", {True: 0.05, False: 0.05})
        status = module.run(_arguments(folder, *names, **changes))
        return status, seen[0], console.export_text()

    _command = module._command
    return made


def _results(folder, name):
    row = {
        "paper": name,
        "scale": "laptop",
        "claim": "gain:trend",
        "evidence": "trend",
        "verdict": "match",
        "our_value": 1.5,
    }
    rest = {"low": 1.0, "high": 2.0, "unit": "points", "tolerance": "margin 0", "seeds": 3, "direction": "higher"}
    columns = {**dict.fromkeys(COLUMNS), **row, **rest}
    write_sealed(
        folder / "results" / "laptop" / "papers" / name / "claims.json",
        {"paper": name, "rows": [columns], "trends": {}},
    )


def test_a_paper_is_its_tables_and_figures_with_every_trend(folder, call):
    _results(folder, "one")
    status, command, said = call("import time; time.sleep(0.5)", "one")
    assert status == 0
    assert command == ["paper", "--config", "scale=laptop", "quick=false", "paper=one"]
    assert "0 of" in said and "jobs done" in said, "a line of progress while it ran"
    assert "match" in said and "tables and figures" in said


def test_a_claim_asks_for_what_its_verdict_needs(folder, call):
    _results(folder, "one")
    _, command, said = call("pass", "gain", snakemake="--keep-going --cores 2")
    assert command == ["paper", "--config", "scale=laptop", "claims=gain", "--keep-going", "--cores", "2"]
    assert "1 match" in said


def test_a_paper_that_is_not_enabled_is_enabled_for_the_call(folder, call):
    config = folder / "config" / "config.yaml"
    content = yaml.safe_load(config.read_text(encoding="utf-8"))
    config.write_text(yaml.safe_dump({**content, "papers": ["one"]}), encoding="utf-8")
    _results(folder, "two")
    _, command, _ = call("pass", "two")
    assert command == ["paper", "--config", "scale=laptop", "quick=false", "paper=two", "papers=one,two"]


def test_jobs_are_those_of_what_was_named(folder):
    project = load_project(folder, quick=False)
    plan = build_plan(project, "laptop")
    both = module._needed(project, plan, ["one", "two"])
    second = module._needed(project, plan, ["two"])
    plain = plan.named["two"]["laptop"]["plain"]
    assert {job.run[0] for job in second if job.run} == {plain}
    assert {job.rule for job in second} == {"measure_structure", "prepare", "adapt", "evaluate"}
    assert len(second) < len(both)
    assert plan.named["one"]["laptop"]["teacher"] in {job.run[0] for job in both if job.run}, "what others wait for"


def test_snakemakes_failure_is_shown_and_returned(folder, call):
    status, _, said = call("import sys; print('rule adapt failed'); sys.exit(7)", "one")
    assert status == 7 and "rule adapt failed" in said
    [log] = (folder / "logs" / "run").iterdir()
    assert log.read_text(encoding="utf-8") == "rule adapt failed\n" and str(log) in said


def test_papers_and_claims_in_one_call_and_unknown_names_are_mistakes(folder):
    with pytest.raises(ConfigError, match=r"name papers \(one\) or claims \(gain\), not both"):
        module.run(_arguments(folder, "one", "gain"))
    with pytest.raises(ConfigError, match=r"'gian' is neither a paper nor a claim of an enabled paper.*gain"):
        module.run(_arguments(folder, "gian"))


def test_a_signal_reaches_snakemake_once(folder, call, monkeypatch):
    code = (
        "import os, signal, sys, time\n"
        "def ended(*_):\n    print('told to end', flush=True); time.sleep(0.3); sys.exit(5)\n"
        "signal.signal(signal.SIGTERM, ended); signal.signal(signal.SIGINT, ended)\n"
        "os.kill(os.getppid(), signal.SIGINT); time.sleep(30)"
    )
    status, _, _ = call(code, "one")
    [log] = (folder / "logs" / "run").iterdir()
    assert status == 5 and log.read_text(encoding="utf-8") == "told to end\n"
