"""What happens to training on a cluster: it is preempted, cancelled, warned of its time limit, killed for its memory, loses its node.

And what training does to itself: diverge. Each happens to a checkout of its own. Most of the time a cluster waits, so the stories that
the selected tests ask about all run at once, and a whole smoke run beside them; a test that takes a story's name as argument waits for it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from replica.config.paper_folder import read_paper
from replica.paths import PROCESS
from replica.training.checkpoints import SEAL
from tests.workflow.checkout import environment, program, snakemake

from .cluster import Cluster, Controller, Job, wait_for
from .sites import OneRun, copied, make_site, replace

#: Memory in MB of the job that is preempted and of the one that takes its place: together more than the machine poses as having.
LARGE = "60000"
#: Memory in MB that the training program outgrows at its first attempt, not at its second: it takes 640.
SCARCE = "500"


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


def _once(controller: Controller, look: Callable[[], bool]) -> Callable[[], bool]:
    def looked() -> bool:
        assert controller.process.poll() is None, f"Snakemake ended before its time:\n{controller.text()[-3000:]}"
        return look()

    return looked


def _wait_for_training(run: OneRun, controller: Controller) -> None:
    look = _once(controller, lambda: bool(re.search(r"^step \d+/", run.log, re.MULTILINE)))
    wait_for("training to begin", look, 300, 0.02)


def _wait_for_checkpoint(run: OneRun, controller: Controller) -> None:
    look = _once(controller, lambda: any(run.state.glob(f"checkpoint-*/{SEAL}")))
    wait_for("a checkpoint", look, 300, 0.02)


def _freeze(run: OneRun) -> int:
    """Stop training where it is until it gets a signal to go on, as SLURM sends it before it ends a job; returns its number."""
    number = json.loads((run.state / PROCESS).read_text(encoding="utf-8"))["pid"]
    os.kill(number, signal.SIGSTOP)
    return number


def _running(cluster: Cluster, run: OneRun) -> Job:
    def look() -> list[Job]:
        return [job for job in cluster.jobs(run.folder) if job.state == "RUNNING"]

    return wait_for("the accounting to know the job", look, 30)[0]


def undisturbed(cluster: Cluster, site: Path, folder: Path) -> Told:
    """The same training on this machine, without SLURM or Snakemake."""
    run = copied(site, folder)
    command = program(folder, "train", "--scale", "smoke", "--run", run.run, "--seed", "0")
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, encoding="utf-8", check=False)
    return Told(run, done.returncode, done.stderr)


def preempted(cluster: Cluster, site: Path, folder: Path) -> Told:
    """Once a checkpoint is there, a job of a better partition asks for memory that only the training job can give up."""
    run = copied(site, folder, checkpoint_every="10", mem_mb=LARGE)
    with _start(cluster, run, "--set-resources", "adapt:slurm_partition=scavenge") as controller:
        _wait_for_checkpoint(run, controller)
        _freeze(run)
        cluster.call("sbatch", "--parsable", "--partition=gpu", f"--mem={LARGE}", "--output=/dev/null", "--wrap=true")
        return _end(cluster, run, controller)


def cancelled(cluster: Cluster, site: Path, folder: Path) -> Told:
    """Somebody cancels the job by hand. No checkpoint is due before the end: what it resumes from was written on the signal."""
    run = copied(site, folder)
    with _start(cluster, run) as controller:
        _wait_for_training(run, controller)
        _freeze(run)
        cluster.call("scancel", _running(cluster, run).id)
        return _end(cluster, run, controller)


def warned(cluster: Cluster, site: Path, folder: Path) -> Told:
    """All processes of the job step get SIGUSR1, as from `sbatch --signal=USR1@300` near the time limit."""
    run = copied(site, folder)
    with _start(cluster, run) as controller:
        _wait_for_training(run, controller)
        number = _freeze(run)
        cluster.call("scancel", "--signal=USR1", _running(cluster, run).id)
        os.kill(number, signal.SIGCONT)
        return _end(cluster, run, controller)


#: Answers SIGUSR1 as training does; started again, it ends.
PATIENT = """
import pathlib, signal, sys, time

def stop(number, frame):
    pathlib.Path("saved").touch()
    sys.exit(85)

if pathlib.Path("saved").exists():
    pathlib.Path("limited.done").touch()
else:
    signal.signal(signal.SIGUSR1, stop)
    time.sleep(300)
"""
#: A job of two minutes, started as training is.
LIMITED = """
include: "workflow/rules/common.smk"


rule limited:
    output:
        "limited.done",
    resources:
        mem_mb=500,
        runtime=2,
    shell:
        "exec python scripts/launch.py --minutes {resources.runtime} -- program.py"
"""


def limited(cluster: Cluster, site: Path, folder: Path) -> Told:
    """A job reaches its time limit; nobody tells its program but the clock of the launcher."""
    shutil.copytree(site, folder, symlinks=True)
    (folder / "Snakefile").write_text(LIMITED, encoding="utf-8")
    (folder / "program.py").write_text(PATIENT, encoding="utf-8")
    with cluster.snakemake(folder, "--config", "scale=smoke", "--", "limited.done") as controller:
        status = controller.wait()
    return Told(OneRun(folder, "limited"), status, controller.text(), cluster.jobs(folder))


def lost(cluster: Cluster, site: Path, folder: Path) -> Told:
    """The node dies in the middle of training, without a signal to anybody."""
    run = copied(site, folder, checkpoint_every="10")
    with _start(cluster, run, "--set-resources", "adapt:slurm_partition=mortal") as controller:
        _wait_for_checkpoint(run, controller)
        _freeze(run)
        cluster.lose_mortal()
        return _end(cluster, run, controller)


def starved(cluster: Cluster, site: Path, folder: Path) -> Told:
    """The job needs more memory than the plan thought."""
    run = copied(site, folder)
    estimate = "training(wildcards.run).mem_mb"
    replace(folder / "workflow" / "rules" / "common.smk", {estimate: SCARCE})
    with _start(cluster, run) as controller:
        return _end(cluster, run, controller)


def diverged(cluster: Cluster, site: Path, folder: Path) -> Told:
    """Weights explode within a few steps; the loss becomes NaN or infinite."""
    run = copied(site, folder, weight_decay="1e+30")
    with _start(cluster, run) as controller:
        return _end(cluster, run, controller)


#: Papers of the smoke run, and the one trend of each whose runs are made: a model shared by both, a chain of three jobs, and an adapter.
TRENDS = {"compacter": "compacter-parity", "minilm": "minilm-table2-glue-squad"}


@dataclass
class Both:
    """One checkout made through SLURM (`far`) and on this machine (`near`), and the jobs of the first."""

    far: Path
    near: Path
    status: int
    text: str
    jobs: list[Job]


def _shorten(folder: Path, kept: str) -> None:
    """Leave one trend of a paper, and nothing that meters memory or draws: seconds each, and no question of the cluster's."""
    data = read_paper(folder).model_dump(mode="json", by_alias=True, exclude_unset=True)
    data["figures"] = []
    data["claims"] = [claim for claim in data["claims"] if "memory" not in yaml.safe_dump(claim)]
    for claim in data["claims"]:
        if claim["id"] != kept:
            claim.pop("trend", None)
    left = {claim["id"] for claim in data["claims"]}
    data["tables"] = [
        {**table, "claims": [name for name in table["claims"] if name in left]} for table in data["tables"]
    ]
    for measurement in data["measurements"].values():
        measurement["meters"].pop("memory", None)
    data["measurements"] = {name: entry for name, entry in data["measurements"].items() if entry["meters"]}
    (folder / "paper.yaml").write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")


def smoke(cluster: Cluster, site: Path, folder: Path) -> Both:
    """Two papers' smoke scale from nothing, through SLURM and on this machine."""
    far = folder / "far"
    far.mkdir(parents=True)
    make_site(far, list(TRENDS))
    for paper, kept in TRENDS.items():
        _shorten(far / "config" / "papers" / paper, kept)
    near = Path(shutil.copytree(far, folder / "near", symlinks=True))
    with cluster.snakemake(far, "--config", "scale=smoke") as controller:
        snakemake(near, "--config", "scale=smoke")
        status = controller.wait()
    return Both(far, near, status, controller.text(), cluster.jobs(far))


#: Stories by name, those that last longest first.
STORIES = {
    story.__name__: story
    for story in (smoke, limited, starved, preempted, lost, warned, cancelled, diverged, undisturbed)
}
