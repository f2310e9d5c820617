"""What a failed job leaves behind: a mark where the same call would fail again, smaller parts where memory was short."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys

import pytest
import torch

from replica import seals
from replica.config import load_project
from replica.errors import (
    DIVERGED,
    INTERRUPTED,
    MISTAKE,
    OUT_OF_MEMORY,
    AssetError,
    ConfigError,
    DivergedError,
    OutOfMemoryError,
    RepeatedError,
    ReplicaError,
    TrainingError,
)
from replica.files import write_json
from replica.jobs.programs import main
from replica.paths import FAILED, MEMORY, PROCESS, Layout
from replica.plan import build_plan
from replica.plan.run_job import job_of
from replica.training import failures, out_of_memory, process

from .small_project import write_project


@pytest.fixture
def planned(tmp_path):
    project = load_project(write_project(tmp_path))
    plan = build_plan(project, "laptop")
    return project, plan, plan.named["one"]["laptop"], Layout(tmp_path)


def _mark(planned, name="plain", seed=1, **options):
    project, plan, names, layout = planned
    return failures.fingerprint(job_of(project, plan, names[name], seed, layout), **options)


def _fail(folder, mark, error):
    with pytest.raises(type(error)), failures.remembered(folder, mark, "adapt-x"):
        raise error


@pytest.mark.parametrize(
    "error, status",
    [
        (ConfigError("wrong"), MISTAKE),
        (AssetError("corrupt"), MISTAKE),
        (DivergedError("the loss is nan"), DIVERGED),
        (OutOfMemoryError("too large"), OUT_OF_MEMORY),
        (RepeatedError("again", 87), 87),
    ],
)
def test_errors_end_a_program_with_the_status_of_their_kind(error, status, capsys):
    def program():
        raise error

    with pytest.raises(SystemExit) as stopped:
        main(program)
    assert stopped.value.code == status
    assert capsys.readouterr().err == f"error: {error}\n"
    assert (MISTAKE, INTERRUPTED, OUT_OF_MEMORY, DIVERGED) == (2, 85, 86, 87)


@pytest.mark.parametrize(
    "error, status",
    [
        (DivergedError("the loss is nan at step 3"), 87),
        (TrainingError("run it first"), 2),
        (ZeroDivisionError("division by zero"), 1),
        (KeyError("logits"), 1),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"), 1),
    ],
)
def test_a_failure_that_would_come_again_is_not_tried_again(tmp_path, error, status):
    _fail(tmp_path, "mark", error)
    with pytest.raises(RepeatedError) as again:
        failures.refuse(tmp_path, "mark")
    assert again.value.status == status
    said = str(error) if isinstance(error, ReplicaError) else f"{type(error).__name__}: {error}"
    assert str(again.value).startswith(said) and "replica forget adapt-x" in str(again.value)
    assert len(str(again.value).splitlines()) == 1


@pytest.mark.parametrize(
    "error",
    [
        OutOfMemoryError("too large"),
        OSError(28, "No space left on device"),
        ConnectionResetError("by peer"),
        RuntimeError("CUDA error: unspecified launch failure"),
        RuntimeError("[pair.cc:553] Connection closed by peer [127.0.0.1]:4123"),
        RuntimeError("[enforce fail at inline_container.cc:603] . unexpected pos 128 vs 22"),
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
    ],
)
def test_what_may_pass_by_itself_is_not_remembered(tmp_path, error):
    _fail(tmp_path, "mark", error)
    assert not (tmp_path / FAILED).exists()
    failures.refuse(tmp_path, "mark")


def test_a_change_of_what_the_run_is_made_from_clears_the_mark(planned):
    _, plan, names, layout = planned
    run = plan.runs[names["student"]]
    first = _mark(planned, "student")
    assert first == _mark(planned, "student")
    seen = {first, _mark(planned, "student", seed=2), _mark(planned, "student", processes=2), _mark(planned)}
    parent = layout.run("laptop", run.parents["teacher"], plan.parent_seed(run.parents["teacher"], 1))
    parent.mkdir(parents=True)
    (parent / "manifest.json").write_text("{}", encoding="utf-8")
    made = _mark(planned, "student")
    seen.add(made)
    (parent / "metrics.json").write_text("{}", encoding="utf-8")  # the parent's own score, which may be made meanwhile
    assert _mark(planned, "student") == made
    (parent / "model.safetensors").write_bytes(b"mended")
    data = layout.prepared(run.data)
    seen.add(_mark(planned, "student"))
    data.mkdir(parents=True)
    (data / "train.parquet").write_bytes(b"rows")
    seen.add(_mark(planned, "student"))
    assert len(seen) == 7, "each change gives another fingerprint"


def test_a_change_of_the_code_clears_the_mark(planned, monkeypatch):
    before = _mark(planned)
    marks = {before}
    for other in ("loop.py", "none"):
        monkeypatch.setattr(seals, "sha256_file", lambda path, other=other: "changed" if path.name == other else "same")
        seals.code_hash.cache_clear()
        marks.add(_mark(planned))
    seals.code_hash.cache_clear()
    assert len(marks) == 3


def test_another_fingerprint_or_a_removed_checkpoint_lets_it_try_again(tmp_path):
    (tmp_path / "checkpoint-7").mkdir()
    for change in (lambda: failures.refuse(tmp_path, "other"), (tmp_path / "checkpoint-7").rmdir):
        _fail(tmp_path, "mark", TrainingError("corrupt resume checkpoint"))
        with pytest.raises(RepeatedError):
            failures.refuse(tmp_path, "mark")
        change()
        failures.refuse(tmp_path, "mark")
        assert not (tmp_path / FAILED).exists()
    (tmp_path / FAILED).write_text('{"status": 8', encoding="utf-8")
    failures.refuse(tmp_path, "mark")
    assert not (tmp_path / FAILED).exists()


def _killed(folder, attempt, **more):
    """What a process that is not alive any more left behind."""
    finished = subprocess.Popen([sys.executable, "-c", ""])
    finished.wait()
    write_json(folder / PROCESS, {"pid": finished.pid, "host": platform.node(), "attempt": attempt, **more})


def test_a_later_attempt_after_a_kill_without_notice_takes_smaller_parts(tmp_path, capsys):
    assert out_of_memory.parts(tmp_path, 3, 8) == 1, "the first start, whatever its number"
    _killed(tmp_path, 1)
    assert out_of_memory.parts(tmp_path, 1, 8) == 1, "requeued after a preemption, or started again by hand"
    assert out_of_memory.parts(tmp_path, 2, 8) == 2
    assert "attempt 2" in capsys.readouterr().err
    _killed(tmp_path, 2)
    assert out_of_memory.parts(tmp_path, 3, 8) == 4
    assert json.loads((tmp_path / MEMORY).read_text(encoding="utf-8"))["parts"] == 4
    _killed(tmp_path, 3)
    assert out_of_memory.parts(tmp_path, 4, 3) == 4 - 1, "not more parts than sentences"


def test_who_stopped_by_itself_or_is_alive_was_not_killed(tmp_path):
    process.stopped(tmp_path, 1, 40)
    assert out_of_memory.parts(tmp_path, 2, 8) == 1
    write_json(tmp_path / PROCESS, {"pid": os.getpid(), "host": platform.node(), "attempt": 1})
    assert out_of_memory.parts(tmp_path, 2, 8) == 1
    write_json(tmp_path / PROCESS, {"pid": os.getpid(), "host": "a-node-that-is-gone", "attempt": 1})
    assert out_of_memory.parts(tmp_path, 2, 8) == 2


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB\nmore"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError(),
    ],
)
def test_an_error_for_lack_of_memory_is_one_line_and_halves_the_next_start(tmp_path, error):
    said = pytest.raises(OutOfMemoryError, match="out of memory with 8 sentences at a time")
    with said as caught, out_of_memory.watched(tmp_path, 1, 8, attempt=1):
        raise error
    assert len(str(caught.value).splitlines()) == 1
    assert out_of_memory.parts(tmp_path, 2, 8) == 2
    _killed(tmp_path, 1)  # a neighbour of the process that said so
    assert out_of_memory.parts(tmp_path, 2, 8) == 2, "heard once, not twice"
    with pytest.raises(OutOfMemoryError, match="with 4 sentences"), out_of_memory.watched(tmp_path, 2, 8, attempt=2):
        raise error
    with (
        pytest.raises(OutOfMemoryError, match="one sentence at a time: the model itself"),
        out_of_memory.watched(tmp_path, 8, 8, attempt=3),
    ):
        raise error
    assert out_of_memory.parts(tmp_path, 3, 8) == 4


def test_a_shortage_that_several_processes_see_counts_once(tmp_path):
    for _ in range(2):
        out_of_memory.shorten(tmp_path, 1)
    assert out_of_memory.parts(tmp_path, 1, 8) == 2
    out_of_memory.shorten(tmp_path, 2)
    assert out_of_memory.parts(tmp_path, 2, 8) == 4


def test_other_errors_pass_through(tmp_path):
    with pytest.raises(RuntimeError, match="shapes"), out_of_memory.watched(tmp_path, 1, 8, attempt=1):
        raise RuntimeError("shapes")
    assert not (tmp_path / MEMORY).exists()
