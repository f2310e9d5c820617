"""What clusters do to long training: preempt it, cancel it, warn it of its time limit, kill it for its memory.

And what training does to itself: diverge. Each thing happens to a checkout of its own; all of them run at once, because most of the
time a cluster waits. A test reports on one.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from replica.training.checkpoints import SEAL
from tests.workflow.checkout import environment, program

from .cluster import Cluster, Controller, Job, wait_for
from .sites import STEPS, OneRun, copied, prepared_site, replace

pytestmark = [pytest.mark.slurm, pytest.mark.workflow]
#: Memory in MB of the job that is preempted and of the one that takes its place: together more than the machine poses as having.
LARGE = "60000"
#: Memory in MB that the training program outgrows at its first attempt, not at its second.
SCARCE = "600"


@dataclass
class Told:
    """What happened to a run: Snakemake's exit status and text, the run's jobs, and the checkout."""

    run: OneRun
    status: int
    text: str
    jobs: list[Job] = field(default_factory=list)


def _end(cluster: Cluster, run: OneRun, controller: Controller) -> Told:
    status = controller.wait()
    jobs = [job for job in cluster.jobs(run.folder) if "rule_adapt" in job.comment]
    return Told(run, status, controller.text(), jobs)


def _start(cluster: Cluster, run: OneRun, *arguments: str) -> Controller:
    return cluster.snakemake(run.folder, *arguments, "--config", "scale=smoke", "--", run.target)


def _training(run: OneRun, controller: Controller) -> Callable[[], bool]:
    def look() -> bool:
        assert controller.process.poll() is None, f"Snakemake ended before training began:\n{controller.text()[-3000:]}"
        return bool(re.search(r"^step \d+/", run.log, re.MULTILINE))

    return look


def _running(cluster: Cluster, run: OneRun) -> Job:
    def look() -> list[Job]:
        return [job for job in cluster.jobs(run.folder) if job.state == "RUNNING"]

    return wait_for("the accounting to know the job", look, 20)[0]


def undisturbed(cluster: Cluster, site: Path, folder: Path) -> Told:
    """The same training on this machine, without SLURM or Snakemake."""
    run = copied(site, folder)
    command = program(folder, "train", "--scale", "smoke", "--run", run.run, "--seed", "0")
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    return Told(run, done.returncode, done.stderr)


def preempted(cluster: Cluster, site: Path, folder: Path) -> Told:
    """Once a checkpoint is there, a job of a better partition asks for memory that only the training job can give up."""
    run = copied(site, folder, checkpoint_every="10", mem_mb=LARGE)
    with _start(cluster, run, "--set-resources", "adapt:slurm_partition=scavenge") as controller:
        wait_for("a checkpoint", lambda: any(run.state.glob(f"checkpoint-*/{SEAL}")), 180, 0.02)
        cluster.call("sbatch", "--parsable", "--partition=gpu", f"--mem={LARGE}", "--output=/dev/null", "--wrap=true")
        return _end(cluster, run, controller)


def cancelled(cluster: Cluster, site: Path, folder: Path) -> Told:
    """Somebody cancels the job by hand. No checkpoint is due before the end: what it resumes from was written on the signal."""
    run = copied(site, folder)
    with _start(cluster, run) as controller:
        wait_for("training to begin", _training(run, controller), 180, 0.02)
        cluster.call("scancel", _running(cluster, run).id)
        return _end(cluster, run, controller)


def warned(cluster: Cluster, site: Path, folder: Path) -> Told:
    """All processes of the job step get SIGUSR1, as from `sbatch --signal=USR1@300` near the time limit."""
    run = copied(site, folder)
    with _start(cluster, run) as controller:
        wait_for("training to begin", _training(run, controller), 180, 0.02)
        cluster.call("scancel", "--signal=USR1", _running(cluster, run).id)
        return _end(cluster, run, controller)


def starved(cluster: Cluster, site: Path, folder: Path) -> Told:
    """The job needs more memory than the plan thought."""
    run = copied(site, folder)
    estimate = 'resources_of(PROJECT, PLAN, wildcards.run)["mem_mb"]'
    replace(folder / "workflow" / "rules" / "common.smk", {estimate: SCARCE})
    with _start(cluster, run) as controller:
        return _end(cluster, run, controller)


def diverged(cluster: Cluster, site: Path, folder: Path) -> Told:
    """Weights explode within a few steps; the loss becomes NaN or infinite."""
    run = copied(site, folder, weight_decay="1e+30")
    with _start(cluster, run) as controller:
        return _end(cluster, run, controller)


@pytest.fixture(scope="module")
def told(cluster, tmp_path_factory, request):
    """Start what the selected tests ask about; returns a function that waits for one of them by name."""
    asked = {item.name for item in request.session.items if item.module is request.module}
    stories = [story for story in STORIES if asked & STORIES[story]]
    site = prepared_site(tmp_path_factory.mktemp("site"))
    with ThreadPoolExecutor(len(stories)) as pool:
        told = {
            story.__name__: pool.submit(story, cluster, site, tmp_path_factory.mktemp("s") / story.__name__)
            for story in stories
        }
        yield lambda name: told[name].result()


def test_preempted_job_is_requeued_and_ends_as_if_undisturbed(told):
    whole, hit = told("undisturbed"), told("preempted")
    assert hit.status == 0, hit.text[-3000:]
    assert [job.state for job in hit.jobs] == ["PREEMPTED", "COMPLETED"]
    assert len({job.id for job in hit.jobs}) == 1, "requeued under its own number, not submitted again"
    assert 0 < hit.run.resumed_at < STEPS
    assert hit.run.result() == whole.run.result()


def test_cancelled_job_is_submitted_again_and_ends_as_if_undisturbed(told):
    whole, hit = told("undisturbed"), told("cancelled")
    assert hit.status == 0, hit.text[-3000:]
    assert [job.state for job in hit.jobs] == ["CANCELLED", "COMPLETED"]
    assert len({job.id for job in hit.jobs}) == 2
    assert 0 < hit.run.resumed_at < STEPS, "the checkpoint that SIGTERM asks for"
    assert hit.run.result() == whole.run.result()


def test_job_near_its_time_limit_goes_back_into_the_queue(told):
    whole, hit = told("undisturbed"), told("warned")
    assert hit.status == 0, hit.text[-3000:]
    assert [job.state for job in hit.jobs] == ["REQUEUED", "COMPLETED"]
    assert len({job.id for job in hit.jobs}) == 1
    assert 0 < hit.run.resumed_at < STEPS, "the checkpoint that SIGUSR1 asks for"
    assert hit.run.result() == whole.run.result()


def test_job_killed_for_its_memory_comes_back_with_more(told):
    hit = told("starved")
    assert hit.status == 0, hit.text[-3000:]
    *failed, last = hit.jobs
    assert failed and {job.state for job in failed} <= {
        "OUT_OF_MEMORY",
        "FAILED",
    }  # of the step, or of what waited for it
    assert last.state == "COMPLETED"
    memory = [job.memory_mb for job in hit.jobs]
    assert memory[0] == int(SCARCE) and memory == sorted(set(memory)), "more with each attempt"


def test_diverged_run_is_not_submitted_again(told):
    hit = told("diverged")
    assert hit.status != 0
    assert [job.state for job in hit.jobs] == ["FAILED"]
    mark = json.loads((hit.run.state / "failed.json").read_text())
    assert mark["status"] == 87 and "the loss is" in mark["message"]
    assert not hit.run.out.exists()


#: What is started for which tests.
STORIES = {
    undisturbed: {
        test_preempted_job_is_requeued_and_ends_as_if_undisturbed.__name__,
        test_cancelled_job_is_submitted_again_and_ends_as_if_undisturbed.__name__,
        test_job_near_its_time_limit_goes_back_into_the_queue.__name__,
    },
    preempted: {test_preempted_job_is_requeued_and_ends_as_if_undisturbed.__name__},
    cancelled: {test_cancelled_job_is_submitted_again_and_ends_as_if_undisturbed.__name__},
    warned: {test_job_near_its_time_limit_goes_back_into_the_queue.__name__},
    starved: {test_job_killed_for_its_memory_comes_back_with_more.__name__},
    diverged: {test_diverged_run_is_not_submitted_again.__name__},
}
