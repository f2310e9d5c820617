"""What clusters do to long training, and what training does to itself (stories.py): it ends as if undisturbed, or once and for all."""

from __future__ import annotations

import json

import pytest

from .sites import STEPS
from .stories import SCARCE

pytestmark = [pytest.mark.slurm, pytest.mark.workflow]


def test_preempted_job_is_requeued_and_ends_as_if_undisturbed(undisturbed, preempted):
    assert preempted.status == 0, preempted.text[-3000:]
    assert [job.state for job in preempted.jobs] == ["PREEMPTED", "COMPLETED"]
    assert len({job.id for job in preempted.jobs}) == 1, "requeued under its own number, not submitted again"
    assert 0 < preempted.run.resumed_at < STEPS
    assert preempted.run.result() == undisturbed.run.result()


def test_cancelled_job_is_submitted_again_and_ends_as_if_undisturbed(undisturbed, cancelled):
    assert cancelled.status == 0, cancelled.text[-3000:]
    assert [job.state for job in cancelled.jobs] == ["CANCELLED", "COMPLETED"]
    assert len({job.id for job in cancelled.jobs}) == 2
    assert 0 < cancelled.run.resumed_at < STEPS, "the checkpoint that SIGTERM asks for"
    assert cancelled.run.result() == undisturbed.run.result()


def test_job_that_is_warned_of_its_time_limit_goes_back_into_the_queue(undisturbed, warned):
    assert warned.status == 0, warned.text[-3000:]
    assert [job.state for job in warned.jobs] == ["REQUEUED", "COMPLETED"]
    assert len({job.id for job in warned.jobs}) == 1
    assert 0 < warned.run.resumed_at < STEPS, "the checkpoint that SIGUSR1 asks for"
    assert warned.run.result() == undisturbed.run.result()


def test_job_of_a_node_that_dies_runs_on_another_and_ends_as_if_undisturbed(undisturbed, lost):
    assert lost.status == 0, lost.text[-3000:]
    assert [job.state for job in lost.jobs] == ["NODE_FAIL", "COMPLETED"]
    assert len({job.id for job in lost.jobs}) == 1
    assert 0 < lost.run.resumed_at < STEPS and lost.run.resumed_at % 10 == 0, (
        "a checkpoint that was due; nobody was told"
    )
    assert lost.run.result() == undisturbed.run.result()


def test_job_killed_for_its_memory_comes_back_with_more(starved):
    assert starved.status == 0, starved.text[-3000:]
    *failed, last = starved.jobs
    # OUT_OF_MEMORY where the kernel says so, through a control group; this cluster polls and kills the step, and its job has failed.
    assert failed and {job.state for job in failed} <= {"FAILED", "OUT_OF_MEMORY"}
    logs = [path.read_text(encoding="utf-8") for path in (starved.run.folder / "logs" / "slurm").rglob("*.log")]
    assert len(logs) == len(failed) and all("exceeded memory limit" in text for text in logs), "kept for failed jobs"
    assert last.state == "COMPLETED"
    memory = [job.memory_mb for job in starved.jobs]
    assert memory[0] == int(SCARCE) and memory == sorted(set(memory)), "more with each attempt"


def test_diverged_run_is_not_submitted_again(diverged):
    assert diverged.status != 0
    assert [job.state for job in diverged.jobs] == ["FAILED"]
    mark = json.loads((diverged.run.state / "failed.json").read_text(encoding="utf-8"))
    assert mark["status"] == 87 and "the loss is" in mark["message"]
    assert not diverged.run.out.exists()
