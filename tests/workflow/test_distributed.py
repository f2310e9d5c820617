"""Two processes (gloo, on processors) train as one with the doubled batch, stop together, and fail with one status.

And what does not fit into memory comes back in smaller parts of the same batches.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys

import pytest
from safetensors.torch import load_file

from replica.assets import manifest
from replica.config import load_project
from replica.errors import DIVERGED, INTERRUPTED, OUT_OF_MEMORY
from replica.plan import build_plan

from .checkout import environment, make_checkout, program, snakemake

pytestmark = pytest.mark.workflow
STEPS, EVERY = 30, 10
#: Overlay of the smoke scale: what two numbers formats or a warm-up would blur stays out.
SMOKE = {"steps": str(STEPS), "checkpoint_every": str(EVERY), "precision": "fp32"}


def _run_of(folder, stage):
    plan = build_plan(load_project(folder, quick=False), "smoke")
    return next(run for run in plan.runs.values() if run.stage == stage and not run.parents and run.seeds)


def _prepare(folder, papers, smoke, stages):
    folder = make_checkout(folder, papers, smoke)
    runs = {stage: _run_of(folder, stage) for stage in stages}
    snakemake(
        folder, "--config", "scale=smoke", "--", *(f"assets/prepared/{run.data}/manifest.json" for run in runs.values())
    )
    return folder, {stage: run.id for stage, run in runs.items()}


def _train(run, *options):
    return ["--scale", "smoke", "--run", run, "--seed", "1", *options]


def _call(folder, command):
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, encoding="utf-8", check=False)


def _result(folder, run):
    path = folder / "results" / "smoke" / "runs" / run / "seed1"
    history = [json.loads(line) for line in (path / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    return history, load_file(path / "model.safetensors"), manifest.verify(path)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A checkout with tokenized data in which two runs, of sentences and of masked words, were trained by one process."""
    folder, runs = _prepare(tmp_path_factory.mktemp("alone"), ["minilm", "prune_ofa"], SMOKE, ("adapt", "pretrain"))
    for run in runs.values():
        done = _call(folder, program(folder, "train", *_train(run)))
        assert done.returncode == 0, done.stderr
    return folder, runs


def _beside(alone, tmp_path):
    """A copy of the checkout without results."""
    folder = shutil.copytree(alone[0], tmp_path / "copy", symlinks=True)
    shutil.rmtree(folder / "results")
    return folder


def _equal(first, second):
    """Losses and weights agree within what the order of sums in float32 makes."""
    assert [line["step"] for line in first[0]] == [line["step"] for line in second[0]]
    for one, other in zip(first[0], second[0], strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-5), one["step"]
    assert first[1].keys() == second[1].keys()
    for name, value in first[1].items():
        assert (second[1][name] - value).abs().max() < 1e-3, name


@pytest.mark.parametrize("stage", ["adapt", "pretrain"])
def test_two_processes_of_torchrun_train_as_one_with_the_doubled_batch(alone, tmp_path, stage):
    folder, run = _beside(alone, tmp_path), alone[1][stage]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--"]
    done = _call(folder, [*torchrun, *program(folder, "train", *_train(run))[1:]])
    assert done.returncode == 0, done.stderr
    found = _result(folder, run)
    _equal(_result(alone[0], run), found)
    assert (
        found[2]["processes"] == 2
        and found[2]["train"]["batch_size"] == _result(alone[0], run)[2]["train"]["batch_size"]
    )
    assert len(re.findall(rf"^step {STEPS}/{STEPS} ", done.stderr, re.MULTILINE)) == 1, "one process reports"
    assert not (folder / "state" / "smoke" / run / "seed1").exists()


@pytest.mark.parametrize("number, then", [(signal.SIGTERM, 2), (signal.SIGUSR1, 1)])
def test_a_signal_stops_both_at_one_step_and_any_number_of_processes_goes_on(alone, tmp_path, number, then):
    folder, run = _beside(alone, tmp_path), alone[1]["adapt"]
    started = subprocess.Popen(
        program(folder, "train", *_train(run, "--processes", "2")),
        cwd=folder,
        env=environment(),
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    for line in started.stderr:
        if (found := re.match(r"step (\d+)/", line)) and int(found.group(1)) >= 3:
            started.send_signal(number)
            break
    said = started.stderr.read()
    assert started.wait() == INTERRUPTED, said
    state = folder / "state" / "smoke" / run / "seed1"
    record = json.loads((state / "process.json").read_text(encoding="utf-8"))
    assert 3 <= record["stopped"] < STEPS
    checkpoint = state / f"checkpoint-{record['stopped']}"
    sealed = json.loads((checkpoint / "complete.json").read_text(encoding="utf-8"))["files"]
    assert {"model.safetensors", "rng_state_0.pth", "rng_state_1.pth"} <= set(sealed)
    assert not (folder / "results").exists(), "a half-trained run stores nothing"
    done = _call(folder, program(folder, "train", *_train(run, "--processes", str(then))))
    assert done.returncode == 0 and f"resuming at step {record['stopped']}" in done.stderr, done.stderr
    found = _result(folder, run)
    _equal(_result(alone[0], run), found)
    assert found[2]["processes"] == then


#: Runs the program as on a GPU that holds the activations of three sentences.
SMALL_GPU = """
import runpy, sys, torch
from replica import tasks
whole = tasks.task_loss
def tight(task, model, batch):
    if len(batch["example_id"]) > 3:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    return whole(task, model, batch)
tasks.task_loss = tight
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_out_of_memory_comes_back_in_smaller_parts_of_the_same_batches(alone, tmp_path):
    folder, run = _beside(alone, tmp_path), alone[1]["adapt"]
    statuses = []
    for attempt in ("1", "2", "3"):
        command = program(folder, "train", *_train(run, "--attempt", attempt))
        done = _call(folder, [command[0], "-c", SMALL_GPU, *command[1:]])
        statuses.append(done.returncode)
        if done.returncode:
            [line] = re.findall("^error: .*$", done.stderr, re.MULTILINE)
            assert "out of memory with" in line and "the next start takes half as many" in line
    assert statuses == [OUT_OF_MEMORY, OUT_OF_MEMORY, 0], done.stderr  # eight sentences, four, two
    found = _result(folder, run)
    _equal(_result(alone[0], run), found)
    assert found[2]["parts"] == 4 and _result(alone[0], run)[2]["parts"] == 1


@pytest.mark.parametrize("attempt, parts", [("1", 1), ("2", 2)])
def test_a_kill_without_notice_makes_a_later_attempt_smaller_and_a_requeued_one_not(alone, tmp_path, attempt, parts):
    folder, run = _beside(alone, tmp_path), alone[1]["adapt"]
    started = subprocess.Popen(
        program(folder, "train", *_train(run)), cwd=folder, env=environment(), stderr=subprocess.PIPE, encoding="utf-8"
    )
    for line in started.stderr:
        if line.startswith(f"step {EVERY + 2}/"):
            started.kill()
            break
    started.stderr.read()
    assert started.wait() == -signal.SIGKILL
    done = _call(folder, program(folder, "train", *_train(run, "--attempt", attempt)))
    assert done.returncode == 0 and f"resuming at step {EVERY}" in done.stderr, done.stderr
    found = _result(folder, run)
    assert found[2]["parts"] == parts
    _equal(_result(alone[0], run), found)


@pytest.fixture(scope="module")
def diverging(tmp_path_factory):
    """A checkout whose training multiplies most weights by -449 a step."""
    smoke = {**SMOKE, "learning_rate": "9.0", "weight_decay": "50.0"}
    return _prepare(tmp_path_factory.mktemp("diverging"), ["minilm"], smoke, ("adapt",))


def test_two_processes_that_diverge_end_with_one_status_and_are_not_tried_again(diverging):
    folder, runs = diverging
    command = program(folder, "train", *_train(runs["adapt"], "--processes", "2"))
    first = _call(folder, command)
    assert first.returncode == DIVERGED, first.stderr
    [message] = set(re.findall(r"^error: (the loss is (?:nan|inf) at step \d+ of .*)$", first.stderr, re.MULTILINE))
    mark = folder / "state" / "smoke" / runs["adapt"] / "seed1" / "failed.json"
    assert json.loads(mark.read_text(encoding="utf-8"))["message"] == message
    again = _call(folder, [*command, "--attempt", "2"])
    assert again.returncode == DIVERGED
    assert again.stderr.startswith(f"error: {message} [failed so") and "step 1/" not in again.stderr


def test_a_run_that_diverges_is_trained_once_however_often_it_is_submitted(diverging):
    folder, runs = diverging
    target = f"results/smoke/runs/{runs['adapt']}/seed0/manifest.json"
    done = snakemake(folder, "--config", "scale=smoke", "--retries", "2", "--", target, check=False)
    assert done.returncode != 0
    assert done.stdout.count("Trying to restart job") == 2, done.stdout[-3000:]
    [log] = (folder / "logs").glob(f"adapt/smoke/{runs['adapt']}-seed0*.log")
    assert "[failed so" in log.read_text(encoding="utf-8") and "step 1/" not in log.read_text(encoding="utf-8"), (
        "the last attempt trained again"
    )
    assert not (folder / target).exists()
