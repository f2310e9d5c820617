"""The command line: what it prints of a plan, and one line with exit status 2 for what a person got wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from .small_project import write_project


def _replica(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "replica.cli", "--root", str(folder), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "200"},
    )


def test_plan_says_runs_jobs_hours_and_longest_path(tmp_path):
    done = _replica(write_project(tmp_path), "plan", "--runs")
    assert done.returncode == 0, done.stderr
    # one teacher; two tried rates and three seeds of the student; three seeds of the plain arm: 1 + 2 + 3 + 3 jobs
    assert "│ all     │    5 │    9 │" in done.stdout.replace("all      ", "all     ")
    assert "longest path" in done.stdout and "GPU hours" in done.stdout


def test_status_counts_what_is_not_run(tmp_path):
    done = _replica(write_project(tmp_path), "status")
    assert "not run 9" in done.stdout


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["plan", "onne"], "unknown paper 'onne'; did you mean 'one'?"),
        (["plan", "--scale", "laptp"], "unknown scale 'laptp'; did you mean 'laptop'?"),
        (["scorecard"], "no ledger there"),
        (["pin"], "no ledger there"),
    ],
)
def test_mistakes_are_one_line_and_status_two(tmp_path, arguments, message):
    done = _replica(write_project(tmp_path), *arguments)
    assert done.returncode == 2
    assert message in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_explain_names_the_nearest_claim(tmp_path):
    folder = write_project(tmp_path)
    (folder / "results").mkdir()
    (folder / "results" / "claims.json").write_text(json.dumps([{"claim": "gain"}]))
    done = _replica(folder, "explain", "gian")
    assert done.returncode == 2 and "did you mean 'gain'" in done.stderr


def test_help_teaches_with_examples():
    done = _replica(".", "--help")
    assert "replica explain" in done.stdout and "examples:" in done.stdout


def test_full_disk_is_one_line_whatever_library_meets_it(capsys):
    from replica.programs import main

    def program():
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")

    with pytest.raises(SystemExit) as caught:
        main(program)
    assert caught.value.code == 2
    assert "no space left on the disk" in capsys.readouterr().err
