"""A cluster with two graphics processors runs two GPU jobs at once and never three; each job sees one of its own."""

from __future__ import annotations

import pytest

from .sites import make_site

pytestmark = [pytest.mark.slurm, pytest.mark.workflow]
JOBS = 4
WORKFLOW = f"""
rule all:
    input:
        expand("seen/{{number}}.txt", number=range({JOBS})),


rule hold:
    output:
        "seen/{{number}}.txt",
    threads: 1
    resources:
        mem_mb=500,
        runtime=5,
        gpu=1,
    shell:
        "echo $CUDA_VISIBLE_DEVICES > {{output}}; sleep 2"
"""


def test_never_more_gpu_jobs_at_once_than_gpus(cluster, tmp_path):
    make_site(tmp_path, ["compacter"])
    (tmp_path / "Snakefile").write_text(WORKFLOW, encoding="utf-8")
    with cluster.snakemake(tmp_path) as controller:
        assert controller.wait() == 0, controller.text()[-3000:]
    jobs = cluster.jobs(tmp_path)
    assert len(jobs) == JOBS and all("gres/gpu=1" in job.resources for job in jobs), jobs
    starts = sorted(job.start for job in jobs)
    at_once = [sum(job.start <= moment < job.end for job in jobs) for moment in starts]
    assert max(at_once) == 2, at_once
    seen = [(tmp_path / "seen" / f"{number}.txt").read_text(encoding="utf-8").strip() for number in range(JOBS)]
    assert set(seen) == {"0", "1"}, seen
