"""What the DAG costs: the dry run of a plan of 10,000 jobs, and the overhead of a job against the same command run by a shell loop.

Writes benchmarks/dag.json. The overhead is (seconds of Snakemake - seconds of the loop) / jobs, over smoke-scale training runs that
both make from the same prepared data on one core.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]


def wide_paper(runs: int) -> dict[str, Any]:
    """Return a paper with `runs` different fine-tuning runs and a trend that reads them all, three seeds each."""
    steps = list(range(10, 10 + runs))
    names = [f"runs.wide-{count}.rotten-sentiment.accuracy" for count in steps]
    claim = {
        "id": "wide",
        "kind": "accuracy",
        "statement": "a plan with many runs",
        "evidence": "full",
        "metric": "accuracy",
        "value": 1.0,
        "where": "nowhere",
        "source": "generated",
        "confidence": "high",
        "not_run": "made for timing",
        "trend": {
            "statement": "none",
            "effect": names[0],
            "shows": {str(i): name for i, name in enumerate(names)},
            "seeds": 3,
            "dataset": "rotten-tomatoes",
            "metric": "accuracy",
            "quick": True,
            "protocol": "none",
        },
    }
    run = {
        "stage": "adapt",
        "matrix": {"steps": steps},
        "model": "all-minilm-l6",
        "task": "rotten-sentiment",
        "train": {"steps": "{steps}"},
    }
    return {
        "id": "wide",
        "title": "Wide",
        "authors": "-",
        "year": 2026,
        "venue": "-",
        "families": [],
        "summary": "-",
        "runs": {"laptop": {"wide-{steps}": run}},
        "claims": [claim],
    }


def checkout(folder: Path, papers: list[str]) -> Path:
    """Copy what the workflow needs into `folder`, with these papers enabled."""
    for name in ("config", "workflow", "scripts", "envs"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copy(ROOT / "Snakefile", folder)
    config = folder / "config" / "config.yaml"
    text = config.read_text(encoding="utf-8")
    config.write_text(re.sub(r"disabled: \[.*?\]", f"papers: [{', '.join(papers)}]", text), encoding="utf-8")
    return folder


def dry_run(folder: Path, jobs: int) -> tuple[int, float]:
    """Dry-run a plan of about `jobs` jobs below `folder`; returns the number of jobs and the seconds."""
    checkout(folder, ["wide"])
    path = folder / "config" / "papers" / "wide" / "paper.yaml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump(wide_paper(-(-jobs // 6))), encoding="utf-8")
    started = time.perf_counter()
    done = _snakemake(folder, "-n", "--quiet", "rules", "--", "runs")
    seconds = time.perf_counter() - started
    return int(re.search(r"^total\s+(\d+)", done, re.MULTILINE).group(1)), seconds


def _snakemake(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--nocolor", *arguments]
    done = subprocess.run(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", check=False
    )
    if done.returncode:
        raise SystemExit(done.stdout[-3000:])
    return done.stdout


def overhead(folder: Path, jobs: int) -> dict[str, float]:
    """Time `jobs` smoke runs by Snakemake and by a loop; returns seconds of both and the overhead of a job."""
    from replica.config import load_project
    from replica.plan import build_plan

    checkout(folder, ["minilm"])
    plan = build_plan(load_project(folder, quick=False), "smoke")
    runs = [run for run in plan.runs.values() if run.stage == "adapt" and not run.parents and run.seeds][:1]
    targets = [f"results/smoke/runs/{runs[0].id}/seed{seed}/manifest.json" for seed in range(jobs)]
    config = ("--config", "scale=smoke")
    _snakemake(folder, *config, "--", f"assets/prepared/{runs[0].data}/manifest.json")
    started = time.perf_counter()
    _snakemake(folder, *config, "--", *targets)
    by_dag = time.perf_counter() - started
    shutil.rmtree(folder / "results")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    started = time.perf_counter()
    for seed in range(jobs):
        command = [sys.executable, "scripts/train.py", "--scale", "smoke", "--run", runs[0].id, "--seed", str(seed)]
        subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    by_loop = time.perf_counter() - started
    return {"jobs": jobs, "snakemake_s": by_dag, "loop_s": by_loop, "overhead_s_per_job": (by_dag - by_loop) / jobs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=10_000, help="jobs of the dry run")
    parser.add_argument("--timed", type=int, default=8, help="jobs that are really run, twice")
    arguments = parser.parse_args()
    from replica.files import write_json

    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        jobs, seconds = dry_run(Path(first), arguments.jobs)
        print(f"dry run of {jobs} jobs: {seconds:.1f} s")
        costs = overhead(Path(second), arguments.timed)
        print(f"overhead of a job: {costs['overhead_s_per_job']:.2f} s (over {costs['jobs']} jobs)")
    result = {
        "dry_run": {"jobs": jobs, "seconds": seconds},
        "job": costs,
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
    }
    write_json(ROOT / "benchmarks" / "dag.json", result)


if __name__ == "__main__":
    main()
