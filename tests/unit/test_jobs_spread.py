"""Processes of one training on one node or several: their variables, the signals they get, the one status they end with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from replica.errors import DIVERGED, INTERRUPTED, MISTAKE, OUT_OF_MEMORY, TrainingError
from replica.jobs import spread
from replica.jobs.spread import NODES, Shape, shape, together

GPUS = {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}
JOB = {**GPUS, "SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2"}
VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS")


@pytest.mark.parametrize(
    "gpus, asked, environment, expected",
    [
        (0, None, {}, Shape(1, 1)),
        (1, None, JOB, Shape(1, 1)),
        (4, None, GPUS, Shape(1, 4)),
        (2, None, GPUS, Shape(1, 2)),
        (8, None, JOB, Shape(2, 4)),
        (8, None, GPUS, Shape(1, 4)),  # a workstation with half of what the paper had
        (8, None, {"CUDA_VISIBLE_DEVICES": ""}, Shape(1, 1)),
        (0, 2, {}, Shape(1, 2)),
        (8, 4, {**JOB, NODES: "2"}, Shape(2, 4)),  # on one of the nodes, started by the first
    ],
)
def test_a_run_is_spread_over_the_gpus_that_are_there(gpus, asked, environment, expected):
    assert shape(gpus, asked, environment) == expected


def test_gpus_that_do_not_fit_the_job_are_one_line():
    with pytest.raises(TrainingError, match="7 GPUs cannot be shared evenly by 2 nodes"):
        shape(7, None, JOB)
    with pytest.raises(TrainingError, match="4 GPUs are there, and 16 over 2 nodes need 8"):
        shape(16, None, JOB)


@pytest.mark.parametrize(
    "statuses, expected",
    [
        ([0, 0], 0),
        ([85, 85], INTERRUPTED),
        ([1, 87], DIVERGED),  # the first lost its neighbour
        ([86, -9], OUT_OF_MEMORY),
        ([-9, 2], MISTAKE),
        ([0, -9], 137),
        ([1, 0], 1),
    ],
)
def test_one_status_stands_for_all(statuses, expected):
    assert together(statuses) == expected


def _child(tmp_path, body):
    path = tmp_path / "child.py"
    path.write_text(
        f"import json, os, pathlib, signal, sys, time\nhere = pathlib.Path({str(tmp_path)!r})\n{body}", encoding="utf-8"
    )
    return [sys.executable, str(path)]


WRITES = f"""
rank = os.environ["RANK"]
(here / f"rank{{rank}}.json").write_text(json.dumps({{name: os.environ[name] for name in {VARIABLES}}}))
"""


def test_each_process_gets_the_variables_of_torchrun(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "6")
    assert spread.launch(_child(tmp_path, WRITES), Shape(1, 2)) == 0
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text(encoding="utf-8")) for rank in range(2))
    assert first.pop("RANK") == "0" and first.pop("LOCAL_RANK") == "0"
    assert second.pop("RANK") == "1" and second.pop("LOCAL_RANK") == "1"
    assert first == second
    assert (first["WORLD_SIZE"], first["LOCAL_WORLD_SIZE"], first["OMP_NUM_THREADS"]) == ("2", "2", "3")
    assert first["MASTER_ADDR"] == "127.0.0.1"


SRUN = f"""#!{sys.executable}
import json, os, pathlib, subprocess, sys
options = [word for word in sys.argv[1:] if word.startswith("--")][:5]
(pathlib.Path(__file__).parent / "srun.json").write_text(json.dumps(options))
tasks = int(next(word for word in options if word.startswith("--ntasks=")).partition("=")[2])
command = sys.argv[1 + len(options):]
started = [subprocess.Popen(command, env={{**os.environ, "SLURM_PROCID": str(node)}}) for node in range(tasks)]
sys.exit(max(process.wait() for process in started))
"""


def test_several_nodes_are_reached_through_srun(tmp_path, monkeypatch):
    """A stand-in for srun starts the program once for each node, here; there it starts its own two processes."""
    srun = tmp_path / "srun"
    srun.write_text(SRUN, encoding="utf-8")
    srun.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    body = f"""
if "RANK" in os.environ:
    {WRITES.strip().replace(chr(10), chr(10) + "    ")}
else:
    from replica.jobs.spread import launch, shape
    asked = int(sys.argv[sys.argv.index("--processes") + 1])
    sys.exit(launch([sys.executable, *sys.argv], shape(4, asked)))
"""
    assert spread.launch(_child(tmp_path, body), Shape(2, 2)) == 0
    options = json.loads((tmp_path / "srun.json").read_text(encoding="utf-8"))
    assert {"--overlap", "--nodes=2", "--ntasks=2", "--ntasks-per-node=1"} <= set(options)
    found = [json.loads((tmp_path / f"rank{rank}.json").read_text(encoding="utf-8")) for rank in range(4)]
    assert [facts["LOCAL_RANK"] for facts in found] == ["0", "1", "0", "1"]
    assert {facts["WORLD_SIZE"] for facts in found} == {"4"}
    assert len({(facts["MASTER_ADDR"], facts["MASTER_PORT"]) for facts in found}) == 1


def test_one_that_fails_ends_those_that_wait_for_it(tmp_path, monkeypatch):
    monkeypatch.setattr(spread, "GRACE", 0.3)
    body = 'sys.exit(87) if os.environ["RANK"] == "1" else time.sleep(60)'
    before = time.monotonic()
    assert spread.launch(_child(tmp_path, body), Shape(1, 2)) == DIVERGED
    assert time.monotonic() - before < 20


def test_one_that_is_killed_while_the_launcher_lives_was_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(spread, "GRACE", 0.3)
    body = 'os.kill(os.getpid(), signal.SIGKILL) if os.environ["RANK"] == "1" else time.sleep(60)'
    assert spread.launch(_child(tmp_path, body), Shape(1, 2)) == OUT_OF_MEMORY


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_reaches_every_process(tmp_path, number):
    body = f"""
signal.signal({int(number)}, lambda number, frame: sys.exit(85))
(here / os.environ["RANK"]).touch()
time.sleep(60)
"""
    command = _child(tmp_path, body)
    code = f"import sys; from replica.jobs.spread import *; sys.exit(launch({command!r}, Shape(1, 2)))"
    launcher = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 60
    while not all((Path(tmp_path) / str(rank)).exists() for rank in range(2)):
        assert time.monotonic() < deadline and launcher.poll() is None
        time.sleep(0.02)
    launcher.send_signal(number)
    assert launcher.wait(timeout=30) == INTERRUPTED
