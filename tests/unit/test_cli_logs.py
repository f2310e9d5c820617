"""`replica logs` shows how a run stands and what its jobs said; `replica forget` clears what it remembers of failures."""

from __future__ import annotations

import os
import sys

import pytest

from replica.config import load_project
from replica.files import write_json
from replica.paths import Layout
from replica.plan import build_plan

from .small_project import write_project


@pytest.fixture
def folder(tmp_path):
    return write_project(tmp_path)


@pytest.fixture
def run(folder):
    plan = build_plan(load_project(folder), "laptop")
    return plan.runs[plan.named["one"]["laptop"]["plain"]]


def _replica(folder, capsys, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["replica", "--root", str(folder), *arguments])
    from replica.cli import main

    with pytest.raises(SystemExit) as stopped:
        main()
    said = capsys.readouterr()
    return stopped.value.code or 0, said.out, said.err


def _log(folder, name, text, age=0):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    os.utime(path, (1_700_000_000 - age,) * 2)
    return path


def _failed(folder, run, seed=1):
    path = Layout(folder).resume("laptop", run.id, seed) / "failed.json"
    write_json(
        path,
        {"status": 87, "message": "the loss is nan at step 7", "fingerprint": "f", "checkpoints": [], "when": "then"},
    )
    return path


def test_logs_show_state_failure_and_the_end_of_every_log(folder, run, capsys, monkeypatch):
    _failed(folder, run)
    lines = "".join(f"line {number}\n" for number in range(30))
    _log(folder, f"logs/adapt/laptop/{run.id}-seed1.log", lines + "error: the loss is nan\n", age=20)
    _log(folder, f"logs/evaluate/laptop/{run.id}-seed0.log", "accuracy 90\n", age=10)
    _log(folder, f"logs/slurm/rule_adapt/laptop_{run.id}_1/77.log", "slurmstepd: error: oom-kill\n")
    _log(folder, "logs/adapt/laptop/adapt-other-00000000-seed1.log", "of another run\n")
    (Layout(folder).resume("laptop", run.id, 0) / "checkpoint-12").mkdir(parents=True)
    code, out, _ = _replica(folder, capsys, monkeypatch, "logs", run.id, "--lines", "3")
    assert code == 0
    assert "seed 1: failed; failed with status 87 at then, not tried again: the loss is nan at step 7" in out
    assert "checkpoint of step 12" in out and "seed 2: not run" in out
    assert "line 28\nline 29\nerror: the loss is nan\n" in out and "line 27\n" not in out
    assert "the last 3 of 31 lines" in out
    assert out.index("line 29") < out.index("accuracy 90") < out.index("oom-kill")
    assert "of another run" not in out


def test_logs_of_an_array_job_are_found_by_what_they_say(folder, run, capsys, monkeypatch):
    mine = _log(folder, ".snakemake/slurm_logs/rule_adapt/9_1.log", f"training {run.id}, seed 1\n")
    _log(folder, ".snakemake/slurm_logs/rule_adapt/9_2.log", "training another\n")
    code, out, _ = _replica(folder, capsys, monkeypatch, "logs", "plain", "--paths")
    assert (code, out.splitlines()) == (0, [str(mine)])


def test_a_run_is_meant_by_a_part_of_its_id_and_a_mistake_is_one_line(folder, run, capsys, monkeypatch):
    code, out, _ = _replica(folder, capsys, monkeypatch, "logs", run.id[-8:])
    assert code == 0 and run.id in out and "no log of this run" in out
    for wanted, said in (("words", "fits"), (run.id[:-1] + "x", f"did you mean '{run.id}'")):
        code, _, err = _replica(folder, capsys, monkeypatch, "logs", wanted)
        assert code == 2 and said in err and len(err.strip().splitlines()) == 1


def test_forget_removes_marks_and_leaves_checkpoints(folder, run, capsys, monkeypatch):
    mark = _failed(folder, run)
    write_json(mark.parent / "memory.json", {"parts": 4})
    checkpoint = mark.parent / "checkpoint-3"
    checkpoint.mkdir()
    other = _failed(folder, run, seed=2)
    code, out, _ = _replica(folder, capsys, monkeypatch, "forget", run.id, "--seed", "1")
    assert code == 0 and str(mark) in out
    assert not mark.exists() and not (mark.parent / "memory.json").exists() and checkpoint.exists() and other.exists()
    assert _replica(folder, capsys, monkeypatch, "forget", run.id)[0] == 0 and not other.exists()
    assert "no failure was remembered" in _replica(folder, capsys, monkeypatch, "forget", run.id)[1]
