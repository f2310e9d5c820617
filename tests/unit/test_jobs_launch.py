"""The launcher: GPU ids without collision, signals and statuses handed on, the way back into the queue."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from replica.jobs.launch import lease, visible_gpus

#: Writes its GPUs and nodes, after it has waited for a file, so that jobs overlap.
SHOW = """
import json, os, sys, time
from pathlib import Path
folder, wait = Path(sys.argv[1]), sys.argv[2:]
names = ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_NUM_NODES")
facts = {name: os.environ.get(name) for name in names} | {"from": time.time()}
while wait and not (folder / wait[0]).exists():
    time.sleep(0.02)
(folder / f"{os.getpid()}.json").write_text(json.dumps(facts | {"to": time.time()}))
"""

#: Ends with status 85 on SIGUSR1 or SIGTERM and says that it is ready.
ANSWERS = """
import signal, sys, time
from pathlib import Path
def stop(number, frame):
    Path(sys.argv[1], f"signal-{number}").touch()
    sys.exit(85)
signal.signal(signal.SIGUSR1, stop)
signal.signal(signal.SIGTERM, stop)
Path(sys.argv[1], "ready").touch()
time.sleep(30)
"""


def _environment(folder: Path, **more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "CUDA_", "REPLICA_"))}
    return {**kept, "REPLICA_GPU_LOCKS": str(folder / "locks"), "PATH": f"{folder}{os.pathsep}{kept['PATH']}", **more}


def _launch(
    folder: Path, program: str, *options: str, arguments: tuple[str, ...] = (), **more: str
) -> subprocess.Popen:
    script = folder / "program.py"
    script.write_text(program, encoding="utf-8")
    command = [sys.executable, "-m", "replica.jobs.launch", *options, "--", str(script), str(folder), *arguments]
    return subprocess.Popen(command, env=_environment(folder, **more), stderr=subprocess.PIPE, encoding="utf-8")


def _facts(folder: Path) -> list[dict]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]


def _wait(path: Path, seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < until, f"{path} did not appear"
        time.sleep(0.02)


def test_jobs_at_the_same_time_get_different_gpus(tmp_path):
    jobs = [_launch(tmp_path, SHOW, "--gpus", "1", arguments=("go",), REPLICA_GPUS="0,1") for _ in range(4)]
    time.sleep(0.5)
    (tmp_path / "go").touch()
    assert [job.wait(timeout=60) for job in jobs] == [0] * 4
    facts = _facts(tmp_path)
    assert {item["CUDA_VISIBLE_DEVICES"] for item in facts} == {"0", "1"}
    for one in facts:  # who held the same id did not overlap
        for other in facts:
            if one is not other and one["CUDA_VISIBLE_DEVICES"] == other["CUDA_VISIBLE_DEVICES"]:
                assert one["to"] <= other["from"] or other["to"] <= one["from"]


def test_gpus_of_a_killed_launcher_stay_taken_until_its_program_ends(tmp_path):
    job = _launch(tmp_path, ANSWERS, "--gpus", "1", REPLICA_GPUS="7")
    _wait(tmp_path / "ready")
    children = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text(encoding="utf-8").split()
    job.kill()
    job.wait()
    taken = threading.Thread(target=lease, args=(1, ["7"], tmp_path / "locks"), daemon=True)
    taken.start()
    taken.join(timeout=1.5)
    assert taken.is_alive(), "the orphan still computes on it"
    for child in children:
        os.kill(int(child), signal.SIGKILL)
    taken.join(timeout=20)
    assert not taken.is_alive()


def test_a_job_of_two_gpus_waits_with_empty_hands(tmp_path):
    folder = tmp_path / "locks"
    folder.mkdir()
    first = lease(1, ["0", "1"], folder)
    waiting = threading.Thread(target=lease, args=(2, ["0", "1"], folder), daemon=True)
    waiting.start()
    time.sleep(0.2)
    other = lease(1, ["1"], folder)  # the one that is free is not kept by who cannot use it alone
    for file in (*first.values(), *other.values()):
        file.close()
    waiting.join(timeout=20)
    assert not waiting.is_alive()


def test_a_job_planned_for_more_gpus_than_there_are_takes_those(tmp_path):
    assert _launch(tmp_path, SHOW, "--gpus", "8", "--nodes", "2", REPLICA_GPUS="3,5").wait(timeout=60) == 0
    assert [item["CUDA_VISIBLE_DEVICES"] for item in _facts(tmp_path)] == ["3,5"]


def test_no_gpu_here_leaves_the_program_alone(tmp_path):
    assert _launch(tmp_path, SHOW, "--gpus", "4", REPLICA_GPUS="").wait(timeout=60) == 0
    assert [item["CUDA_VISIBLE_DEVICES"] for item in _facts(tmp_path)] == [None]
    assert not (tmp_path / "locks").exists()


def test_under_slurm_its_gpus_are_left_as_they_are_and_its_nodes_are_told(tmp_path):
    """Snakemake's step takes SLURM's variables out of a job's environment, all but its number."""
    environment = {"SLURM_JOB_ID": "5", "CUDA_VISIBLE_DEVICES": "2,3"}
    assert _launch(tmp_path, SHOW, "--gpus", "4", "--nodes", "2", **environment).wait(timeout=60) == 0
    [facts] = _facts(tmp_path)
    assert (facts["CUDA_VISIBLE_DEVICES"], facts["SLURM_JOB_NUM_NODES"]) == ("2,3", "2")
    assert not (tmp_path / "locks").exists()


@pytest.mark.parametrize("status", [0, 2, 85, 86, 87])
def test_status_of_the_program_is_the_launchers(tmp_path, status):
    for options in ((), ("--gpus", "2")):
        job = _launch(tmp_path, f"raise SystemExit({status})", *options, REPLICA_GPUS="0,1")
        assert job.wait(timeout=60) == status


def test_a_killed_program_shows_as_a_shell_would_show_it(tmp_path):
    job = _launch(tmp_path, "import os\nos.kill(os.getpid(), 9)", "--gpus", "1", REPLICA_GPUS="0")
    assert job.wait(timeout=60) == 137


def _command(folder: Path, name: str, end: str) -> Path:
    path = folder / name
    path.write_text(f'#!/bin/sh\necho "$@" >> {folder}/{name}.calls\n{end}\n', encoding="utf-8")
    path.chmod(0o755)
    return folder / f"{name}.calls"


def _scontrol(folder: Path) -> Path:
    return _command(folder, "scontrol", "exit 1")


def test_near_the_time_limit_the_job_goes_back_into_the_queue(tmp_path):
    calls = _scontrol(tmp_path)
    job = _launch(tmp_path, ANSWERS, "--minutes", "0.05", SLURM_JOB_ID="17")  # a fifth of 3 s is left
    assert job.wait(timeout=30) == 85
    assert (tmp_path / f"signal-{int(signal.SIGUSR1)}").exists()
    assert calls.read_text(encoding="utf-8") == "requeue 17\n"


def test_the_time_is_slurms_which_runs_since_the_allocation(tmp_path):
    calls = _scontrol(tmp_path)
    asked = _command(tmp_path, "squeue", "echo 0:14")  # 46 s went by before this program; a fifth of the minute is 12 s
    variables = {"SLURM_JOB_ID": "18", "SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "2"}
    job = _launch(tmp_path, ANSWERS, "--minutes", "1", **variables)
    assert job.wait(timeout=25) == 85, "its own clock would ring after 48 s"
    assert (
        asked.read_text(encoding="utf-8") == "--noheader --job 17_2 --format=%L\n"
        and calls.read_text(encoding="utf-8") == "requeue 17_2\n"
    )


def test_a_job_that_is_told_to_end_is_not_put_back_into_the_queue(tmp_path):
    """SLURM requeues what it preempts by itself, and what a person cancels must stay cancelled."""
    calls = _scontrol(tmp_path)
    job = _launch(tmp_path, ANSWERS, "--minutes", "60", SLURM_JOB_ID="17")
    _wait(tmp_path / "ready")
    job.terminate()
    assert job.wait(timeout=30) == 85
    assert (tmp_path / f"signal-{int(signal.SIGTERM)}").exists() and not calls.exists()


def test_without_slurm_there_is_no_time_limit_and_no_second_process(tmp_path):
    job = _launch(tmp_path, "import os, sys, pathlib\npathlib.Path(sys.argv[1], 'pid').write_text(str(os.getpid()))")
    assert job.wait(timeout=30) == 0
    assert int((tmp_path / "pid").read_text(encoding="utf-8")) == job.pid, "the program takes the launcher's place"


def test_visible_gpus_come_from_the_nearest_source():
    assert visible_gpus({"REPLICA_GPUS": "4, 5", "CUDA_VISIBLE_DEVICES": "1"}) == ["4", "5"]
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "1"}) == ["1"]
    assert visible_gpus({"REPLICA_GPUS": ""}) == []


def test_a_lock_can_be_opened_by_the_next_user_whatever_the_umask(tmp_path):
    before = os.umask(0o077)
    try:
        held = lease(1, ["0"], tmp_path)
    finally:
        os.umask(before)
    assert (tmp_path / "0.lock").stat().st_mode & 0o777 == 0o666
    held["0"].close()


def test_without_docstrings_it_starts_programs_too(root):
    command = [sys.executable, str(root / "scripts" / "launch.py"), "--", "-c", "print(1)"]
    done = subprocess.run(command, env={**os.environ, "PYTHONOPTIMIZE": "2"}, capture_output=True, encoding="utf-8")
    assert (done.returncode, done.stdout.strip()) == (0, "1"), done.stderr
