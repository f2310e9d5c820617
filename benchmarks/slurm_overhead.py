"""What a job costs through SLURM, against the same job by Snakemake on this machine and by a shell loop.

Starts the private SLURM of tests/slurm and trains seeds of one smoke-scale run with the shipped profile, one job at a time. Writes
benchmarks/slurm_overhead.json. Of each job: `queue_s` from submission to start, `allocation_s` from start to end, `program_s` of the
training program inside it (Snakemake's benchmark file); the overhead is allocation minus program. sacct knows whole seconds.
"""

from __future__ import annotations

import argparse
import csv
import re
import shutil
import sys
import tempfile
from pathlib import Path
from statistics import mean

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.cluster import machine  # noqa: E402
from benchmarks.dag import overhead  # noqa: E402
from replica.config import load_project  # noqa: E402
from replica.files import write_json  # noqa: E402
from replica.plan import build_plan  # noqa: E402
from tests.slurm.cluster import missing, running  # noqa: E402
from tests.slurm.sites import make_site, one_run  # noqa: E402
from tests.workflow.checkout import snakemake  # noqa: E402


def through_slurm(folder: Path, jobs: int) -> dict[str, float]:
    """Train `jobs` seeds one after the other below `folder`; returns means over the jobs, in seconds."""
    site = make_site(folder / "site", ["minilm"])
    run = one_run(site)
    data = build_plan(load_project(site, quick=False), "smoke").run(run.run).data
    snakemake(site, "--config", "scale=smoke", "--", f"assets/prepared/{data}/manifest.json")
    targets = [run.target.replace("seed0", f"seed{seed}") for seed in range(jobs)]
    with running(folder / "cluster") as cluster:
        with cluster.snakemake(site, "--jobs", "1", "--config", "scale=smoke", "--", *targets) as controller:
            if controller.wait(600):
                raise SystemExit(controller.text()[-3000:])
        found = cluster.jobs(site)
    programs = {}
    for path in (site / "benchmarks" / "adapt").rglob("*.tsv"):
        with open(path, newline="") as handle:
            programs[re.search(r"seed(\d+)", path.name).group(1)] = float(
                next(csv.DictReader(handle, delimiter="\t"))["s"]
            )
    allocation = mean((job.end - job.start).total_seconds() for job in found)
    program = mean(programs.values())
    return {
        "jobs": len(found),
        "queue_s": mean((job.start - job.submitted).total_seconds() for job in found),
        "allocation_s": allocation,
        "program_s": program,
        "overhead_s_per_job": allocation - program,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=4, help="jobs by each way")
    arguments = parser.parse_args()
    if lacking := missing():
        raise SystemExit(f"error: {lacking}")
    here = machine()
    print(f"{here['cores']} cores, load {here['load']} before the start", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    try:
        (folder / "site").mkdir()
        slurm = through_slurm(folder, arguments.jobs)
        (folder / "local").mkdir()
        local = overhead(folder / "local", arguments.jobs)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(
        f"a job through SLURM ({slurm['jobs']} jobs): waits {slurm['queue_s']:.1f} s, then holds its node {slurm['allocation_s']:.1f} s "
        f"for {slurm['program_s']:.1f} s of training\n"
        f"overhead of a job through SLURM: {slurm['overhead_s_per_job']:.1f} s, local: {local['overhead_s_per_job']:.1f} s"
    )
    write_json(ROOT / "benchmarks" / "slurm_overhead.json", {"slurm": slurm, "local": local, "machine": here})


if __name__ == "__main__":
    main()
