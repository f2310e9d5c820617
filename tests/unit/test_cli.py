"""The command line: what it prints of a plan, and one line with exit status 2 for what a person got wrong."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys

import pytest

from replica.assets import manifest
from replica.claims.ledger import to_json
from replica.config import load_project
from replica.errors import ConfigError
from replica.files import write_json, write_text
from replica.jobs.run_state import state_of
from replica.paths import Layout
from replica.plan import build_plan
from replica.training.process import recorded

from .small_project import paper, write_project


def _replica(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "replica.cli", "--root", str(folder), *arguments],
        capture_output=True,
        encoding="utf-8",
        check=False,
        env={**os.environ, "COLUMNS": "200"},
    )


def test_plan_says_runs_jobs_hours_and_longest_path(tmp_path):
    done = _replica(write_project(tmp_path), "plan", "--runs")
    assert done.returncode == 0, done.stderr
    # one teacher; two tried rates and three seeds of the student; three seeds of the plain arm: 1 + 2 + 3 + 3 jobs
    assert "│ all     │    5 │    9 │" in done.stdout.replace("|", "│").replace("all      ", "all     ")
    assert "longest path" in done.stdout and "GPU hours" in done.stdout
    [line] = [line for line in done.stdout.splitlines() if line.endswith("(plain)")]
    assert "seeds [0, 1, 2]  10 steps" in line and "threads 1  mem_mb 3000  runtime 10  gpu 0" in line


def test_status_counts_what_is_not_run(tmp_path):
    done = _replica(write_project(tmp_path), "status")
    assert "not run 9" in done.stdout


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["plan", "onne"], "unknown paper 'onne'; did you mean 'one'?"),
        (["plan", "--scale", "laptp"], "unknown scale 'laptp'; did you mean 'laptop'?"),
        (["scorecard"], "claims.json: no such file; make it with `make reproduce`"),
        (["pin"], "claims.json: no such file; make it with `make reproduce`"),
    ],
)
def test_mistakes_are_one_line_and_status_two(tmp_path, arguments, message):
    done = _replica(write_project(tmp_path), *arguments)
    assert done.returncode == 2
    assert message in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_paper_that_is_not_enabled_can_be_planned(tmp_path):
    folder = write_project(tmp_path, settings={"papers": ["one"]})
    other = paper(id="two")
    (folder / "config" / "papers" / "two").mkdir()
    (folder / "config" / "papers" / "two" / "paper.yaml").write_text(
        json.dumps(other), encoding="utf-8"
    )  # JSON is YAML
    done = _replica(folder, "plan", "two")
    assert done.returncode == 0, done.stderr
    assert "plan at scale laptop: two" in done.stdout


def test_status_tells_starting_running_interrupted_and_failed_apart(tmp_path):
    folder = write_project(tmp_path)
    plan = build_plan(load_project(folder), "laptop")
    run = plan.runs[plan.named["one"]["laptop"]["plain"]]
    layout = Layout(folder)
    log = folder / "logs" / "adapt" / "laptop" / f"{run.id}-seed1.log"
    state = layout.resume("laptop", run.id, 1)

    def now():
        return state_of(layout, plan, run, 1)

    assert now() == "not run"
    log.parent.mkdir(parents=True)
    log.touch()
    assert now() == "starting"
    with recorded(state):
        assert now() == "running"
    finished = subprocess.Popen([sys.executable, "-c", ""])
    finished.wait()
    (state / "process.json").write_text(json.dumps({"pid": finished.pid, "host": platform.node()}), encoding="utf-8")
    assert now() == "interrupted"
    write_json(state / "process.json", {"pid": 1, "host": "another", "stopped": 40})
    assert now() == "interrupted", "it said so itself, wherever it ran"
    log.write_text("error: the loss is nan\n", encoding="utf-8")
    with pytest.raises(ConfigError), recorded(state):
        raise ConfigError("wrong")
    assert now() == "failed"
    assert not state.exists()
    log.unlink()
    write_json(state / "failed.json", {"status": 87})
    assert now() == "failed"
    write_json(layout.run("laptop", run.id, 1) / "manifest.json", {})
    assert now() == "done"


def test_explain_walks_to_a_teachers_stored_signals_and_past_a_run_in_the_making(tmp_path):
    folder = write_project(tmp_path)
    runs = folder / "results" / "laptop" / "runs"
    facts = {"seed": 0, "scale": "laptop", "parents": {}, "seconds": 1.0, "finished": "then", "threads": 2}
    targets = runs / "targets-x-00000000" / "seed0"
    targets.mkdir(parents=True)
    (targets / "signals.safetensors").write_bytes(b"signals")
    manifest.write(
        targets, run="targets-x-00000000", spec={"stage": "targets", "task": ["words", 1], "data": "words-1"}, **facts
    )
    (runs / "adapt-y-00000000" / "seed0").mkdir(parents=True)  # its job has begun
    row = {
        "paper": "one", "claim": "gain", "evidence": "full", "scale": "laptop", "metric": "accuracy", "paper_value": 1,
        "our_value": 1, "unit": None, "source": "abstract", "confidence": "high", "low": None, "high": None,
        "verdict": "match", "reason": "", "runs": "targets-x-00000000 adapt-y-00000000",
    }  # fmt: skip
    write_text(folder / "results" / "claims.json", to_json([row]))
    done = _replica(folder, "explain", "gain")
    assert done.returncode == 0, done.stderr
    assert "OMP_NUM_THREADS=2 python scripts/targets.py --scale laptop --run targets-x-00000000 --seed 0" in done.stdout
    assert "adapt-y-00000000: not here" in done.stdout


def test_broken_ledger_is_one_line(tmp_path):
    folder = write_project(tmp_path)
    (folder / "results").mkdir()
    (folder / "results" / "claims.json").write_text("[{", encoding="utf-8")
    done = _replica(folder, "scorecard")
    assert done.returncode == 2 and "corrupt, not JSON" in done.stderr and "Traceback" not in done.stderr


def test_explain_names_the_nearest_claim(tmp_path):
    folder = write_project(tmp_path)
    (folder / "results").mkdir()
    (folder / "results" / "claims.json").write_text(to_json([{"paper": "one", "claim": "gain"}]), encoding="utf-8")
    done = _replica(folder, "explain", "gian")
    assert done.returncode == 2 and "did you mean 'gain'" in done.stderr


def test_help_teaches_with_examples():
    done = _replica(".", "--help")
    assert "replica explain" in done.stdout and "examples:" in done.stdout


@pytest.mark.parametrize(
    "said",
    [
        "Error while serializing: I/O error: No space left on device (os error 28)",  # safetensors
        "[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534",  # torch.save in the middle of a block
        "basic_ios::clear: iostream error",  # torch.save at the end of one
    ],
)
def test_full_disk_is_one_line_whatever_library_meets_it(capsys, said):
    from replica.jobs.programs import main

    def program():
        raise RuntimeError(said)

    with pytest.raises(SystemExit) as caught:
        main(program)
    assert caught.value.code == 2
    assert "no space left on the disk" in capsys.readouterr().err
