"""What a job costs through SLURM, and what the same job costs by Snakemake on this machine, beside the program that it runs.

Starts the private SLURM of tests/slurm and trains seeds of one smoke-scale run with the shipped profile, one job at a time, then the same
seeds without SLURM. Writes benchmarks/slurm_overhead.json. Of each job through SLURM: `queue_s` from submission to start, `allocation_s`
from start to end, `program_s` of the training program inside it (Snakemake's benchmark file); the overhead is allocation minus program.
sacct knows whole seconds.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.cluster import machine  # noqa: E402
from replica.config import load_project  # noqa: E402
from replica.files import write_json  # noqa: E402
from replica.plan import build_plan  # noqa: E402
from tests.slurm.cluster import missing, running  # noqa: E402
from tests.slurm.sites import make_site, one_run  # noqa: E402
from tests.workflow.checkout import snakemake  # noqa: E402


def prepared(folder: Path, jobs: int) -> tuple[Path, list[str]]:
    """Make a checkout with tokenized data below `folder`; returns it and the targets of `jobs` seeds of one run."""
    folder.mkdir()
    site = make_site(folder, ["minilm"])
    run = one_run(site)
    data = build_plan(load_project(site, quick=False), "smoke").run(run.run).data
    snakemake(site, "--config", "scale=smoke", "--", f"assets/prepared/{data}/manifest.json")
    return site, [run.target.replace("seed0", f"seed{seed}") for seed in range(jobs)]


def programs(site: Path) -> list[float]:
    """Return the seconds of each training program in a checkout, as Snakemake's benchmark files have them."""
    found = []
    for path in (site / "benchmarks" / "adapt").rglob("*.tsv"):
        with open(path, encoding="utf-8", newline="") as handle:
            found.append(float(next(csv.DictReader(handle, delimiter="\t"))["s"]))
    return found


def through_slurm(folder: Path, jobs: int) -> dict[str, float]:
    """Train `jobs` seeds one after the other through SLURM; returns means over the jobs, in seconds."""
    site, targets = prepared(folder / "site", jobs)
    with running(folder / "cluster") as cluster:
        with cluster.snakemake(site, "--jobs", "1", "--config", "scale=smoke", "--", *targets) as controller:
            if controller.wait(600):
                raise SystemExit(controller.text()[-3000:])
        found = cluster.jobs(site)
    allocation = mean((job.end - job.start).total_seconds() for job in found)
    program = mean(programs(site))
    return {
        "jobs": len(found),
        "queue_s": mean((job.start - job.submitted).total_seconds() for job in found),
        "allocation_s": allocation,
        "program_s": program,
        "overhead_s_per_job": allocation - program,
    }


def here(folder: Path, jobs: int) -> dict[str, float]:
    """Train the same seeds one after the other by Snakemake on this machine; its own start is timed by a call with nothing to do."""
    site, targets = prepared(folder / "local", jobs)
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        snakemake(site, "--cores", "1", "--config", "scale=smoke", "--", *targets)
        seconds.append(time.perf_counter() - started)
    made = programs(site)
    work = seconds[0] - seconds[1] - sum(made)
    return {"jobs": len(made), "program_s": mean(made), "start_s": seconds[1], "overhead_s_per_job": work / len(made)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=4, help="jobs by each way")
    arguments = parser.parse_args()
    if lacking := missing():
        raise SystemExit(f"error: {lacking}")
    facts = machine()
    print(f"{facts['cores']} cores, load {facts['load']} before the start", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    try:
        slurm = through_slurm(folder, arguments.jobs)
        local = here(folder, arguments.jobs)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(
        f"a job through SLURM ({slurm['jobs']} jobs): waits {slurm['queue_s']:.1f} s, then holds its node {slurm['allocation_s']:.1f} s "
        f"for {slurm['program_s']:.1f} s of training\n"
        f"overhead of a job through SLURM: {slurm['overhead_s_per_job']:.1f} s, local: {local['overhead_s_per_job']:.1f} s"
    )
    write_json(ROOT / "benchmarks" / "slurm_overhead.json", {"slurm": slurm, "local": local, "machine": facts})


if __name__ == "__main__":
    main()
