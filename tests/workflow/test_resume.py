"""Training that is killed goes on where it was and ends with the same bytes."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time

import pytest

from replica.assets import manifest
from replica.config import load_project
from replica.errors import INTERRUPTED
from replica.paths import PROCESS
from replica.plan import build_plan
from replica.training.checkpoints import SEAL

from .checkout import environment, make_checkout, program, snakemake

pytestmark = pytest.mark.workflow
STEPS, EVERY = 120, 7


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Two equal checkouts with tokenized data; in the first, one run was trained without disturbance."""
    folders = []
    for name in ("whole", "killed"):
        folder = make_checkout(
            tmp_path_factory.mktemp(name), ["minilm"], {"steps": str(STEPS), "checkpoint_every": str(EVERY)}
        )
        folders.append(folder)
    plan = build_plan(load_project(folders[0], quick=False), "smoke")
    # A fine-tuning run with dropout, of a model that starts from registered weights or at random: no parents to make first.
    run = next(r for r in plan.runs.values() if r.stage == "adapt" and not r.parents and r.seeds)
    for folder in folders:
        snakemake(folder, "--config", "scale=smoke", "--", f"assets/prepared/{run.data}/manifest.json")
    subprocess.run(_train(folders[0], run.id), cwd=folders[0], env=environment(), check=True, capture_output=True)
    return folders[0], folders[1], run.id


def _train(folder, run):
    return program(folder, "train", "--scale", "smoke", "--run", run, "--seed", "1")


def _stored(folder, run):
    path = folder / "results" / "smoke" / "runs" / run / "seed1"
    return path, manifest.verify(path)


def _interrupt_at(folder, run, step, number):
    """Start training and send a signal once `step` steps are done; returns the exit status."""
    process = subprocess.Popen(
        _train(folder, run), cwd=folder, env=environment(), stderr=subprocess.PIPE, encoding="utf-8"
    )
    for line in process.stderr:
        found = re.match(r"step (\d+)/", line)
        if found and int(found.group(1)) >= step:
            process.send_signal(number)
            break
    said = process.stderr.read()
    print(said)  # shown where the test fails
    return process.wait()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_training_ends_with_the_same_bytes(prepared, number):
    whole, killed, run = prepared
    step = random.Random(int(number)).randrange(EVERY + 1, STEPS - 20)
    status = _interrupt_at(killed, run, step, number)
    assert status == (-signal.SIGKILL if number == signal.SIGKILL else INTERRUPTED)
    out = killed / "results" / "smoke" / "runs" / run / "seed1"
    assert not out.exists(), "a half-trained run stores nothing"
    done = subprocess.run(
        _train(killed, run), cwd=killed, env=environment(), check=True, capture_output=True, encoding="utf-8"
    )
    resumed = int(re.search(r"resuming at step (\d+)", done.stderr).group(1))
    assert 0 < resumed < STEPS
    first, second = _stored(whole, run)[1], _stored(killed, run)[1]
    for name in ("model.safetensors", "model.json", "history.jsonl"):
        assert first["files"][name]["sha256"] == second["files"][name]["sha256"], name
    assert not (killed / "state" / "smoke" / run / "seed1").exists()
    for path in sorted(out.iterdir()):
        path.unlink()
    out.rmdir()


def _snakemake_until_checkpoint(folder, target, state):
    """Start Snakemake in a process group of its own; returns it with a training process that has a complete checkpoint."""
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--config", "scale=smoke", "--", target]
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment(),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 180  # a loaded machine takes long to import; an idle one ten seconds
    while time.monotonic() < deadline:
        if any(state.glob(f"checkpoint-*/{SEAL}")) and (state / PROCESS).exists():
            return process, json.loads((state / PROCESS).read_text(encoding="utf-8"))["pid"]
        assert process.poll() is None, "Snakemake ended before its training job wrote a checkpoint"
        time.sleep(0.02)
    raise AssertionError("no checkpoint in three minutes")


def test_killed_snakemake_and_its_job_go_on(prepared):
    """SIGKILL for the training job and for Snakemake itself; the same call goes on from the checkpoint."""
    whole, killed, run = prepared
    target = f"results/smoke/runs/{run}/seed1/manifest.json"
    process, training = _snakemake_until_checkpoint(killed, target, killed / "state" / "smoke" / run / "seed1")
    os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):  # it was in the group
        os.kill(training, signal.SIGKILL)
    process.wait()
    assert not (killed / target).exists(), "the job was killed before its end"
    done = snakemake(killed, "--config", "scale=smoke", "--", target)
    assert f"The lock of this folder is removed: Snakemake (process {process.pid} on " in done.stdout
    logs = "".join(path.read_text(encoding="utf-8") for path in (killed / "logs").rglob(f"{run}-seed1.log"))
    assert 0 < int(re.search(r"resuming at step (\d+)", logs).group(1)) < STEPS
    first, second = _stored(whole, run)[1], _stored(killed, run)[1]
    assert first["files"]["model.safetensors"]["sha256"] == second["files"]["model.safetensors"]["sha256"]


def test_ctrl_c_writes_a_checkpoint(prepared):
    """A key pressed in the terminal reaches Snakemake and its jobs alike."""
    _, killed, run = prepared
    target = f"results/smoke/runs/{run}/seed2/manifest.json"
    state = killed / "state" / "smoke" / run / "seed2"
    process, _ = _snakemake_until_checkpoint(killed, target, state)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 1 and not (killed / target).exists()
    stopped = json.loads((state / PROCESS).read_text(encoding="utf-8"))["stopped"]
    assert (state / f"checkpoint-{stopped}" / SEAL).exists(), "written when it was told, whatever `checkpoint_every`"
    logs = "".join(path.read_text(encoding="utf-8") for path in (killed / "logs").rglob(f"{run}-seed2.log"))
    assert "signal SIGINT: saving a checkpoint" in logs and "Traceback" not in logs
    snakemake(killed, "--config", "scale=smoke", "--", target)
    assert not state.exists()


def test_data_dated_in_the_future_is_refused_before_the_first_step(prepared):
    """Snakemake would throw the result away as older than its inputs."""
    _, killed, run = prepared
    [data] = (killed / "assets" / "prepared").glob("*/manifest.json")
    now = time.time()
    os.utime(data, (now + 86_400, now + 86_400))
    target = f"results/smoke/runs/{run}/seed3/manifest.json"
    done = snakemake(killed, "--config", "scale=smoke", "--", target, check=False)
    [log] = (killed / "logs").rglob(f"{run}-seed3.log")
    assert done.returncode == 1 and "in the future of this machine's clock" in log.read_text(encoding="utf-8")
    assert str(data.relative_to(killed)) in log.read_text(encoding="utf-8")
    os.utime(data, (now, now))
    snakemake(killed, "--config", "scale=smoke", "--", target)
