"""A training program gets the time it needs to write its checkpoint: no shell and no Snakemake between it and SLURM ends before it."""

from __future__ import annotations

import pytest

from .cluster import wait_for
from .sites import make_site

pytestmark = [pytest.mark.slurm, pytest.mark.workflow]
#: Writes its checkpoint for three seconds, as a model of a few gigabytes does, and ends as training does.
PROGRAM = """
import os, pathlib, signal, sys, time

name = sys.argv[1]

def stop(number, frame):
    time.sleep(3)
    pathlib.Path(f"{name}.saved").touch()
    sys.exit(85)

signal.signal(getattr(signal, f"SIG{name}"), stop)
pathlib.Path(f"{name}.ready").write_text("{SLURM_ARRAY_JOB_ID}_{SLURM_ARRAY_TASK_ID}".format(**os.environ))
time.sleep(60)
"""
WORKFLOW = """
include: "workflow/rules/common.smk"


rule stop:
    output:
        "{signal}.done",
    wildcard_constraints:
        signal="TERM|USR1",
    resources:
        mem_mb=500,
        runtime=5,
    shell:
        "exec python program.py {wildcards.signal}"
"""


def _job(folder, name):
    path = folder / f"{name}.ready"
    return path.read_text(encoding="utf-8") if path.exists() else ""


def test_programs_that_are_told_to_stop_may_finish_their_checkpoint(cluster, tmp_path):
    make_site(tmp_path, ["compacter"])
    (tmp_path / "Snakefile").write_text(WORKFLOW, encoding="utf-8")
    (tmp_path / "program.py").write_text(PROGRAM, encoding="utf-8")
    names = ("TERM", "USR1")
    arguments = ("--config", "scale=smoke", "--retries", "0", "--", *(f"{name}.done" for name in names))
    with cluster.snakemake(tmp_path, *arguments) as controller:
        wait_for("both programs", lambda: all(_job(tmp_path, name) for name in names), 120)
        cluster.call("scancel", _job(tmp_path, "TERM"))  # SIGTERM, and SIGKILL after the cluster's KillWait
        cluster.call("scancel", "--signal=USR1", _job(tmp_path, "USR1"))
        assert controller.wait() != 0
    for name in names:
        assert (tmp_path / f"{name}.saved").exists(), f"killed before it answered SIG{name}"


def test_a_job_at_its_time_limit_goes_back_into_the_queue(limited):
    assert limited.status == 0, limited.text[-3000:]
    assert [job.state for job in limited.jobs] == ["REQUEUED", "COMPLETED"]
    assert len({job.id for job in limited.jobs}) == 1
    first = limited.jobs[0]
    assert (first.end - first.start).total_seconds() >= 95, "told when a fifth of its two minutes was left"
