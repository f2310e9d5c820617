"""What a cluster costs besides computing: time to plan 10,000 jobs with the SLURM profile, and calls a minute at 200 running jobs.

Writes benchmarks/cluster.json. SLURM's commands are stand-ins that record each call and say that every job runs; a call of sacct goes to
the accounting database, all others go to the controller.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.dag import checkout, wide_paper  # noqa: E402
from tests.workflow.fake_slurm import FakeSlurm  # noqa: E402

#: Commands that the accounting database answers, not the controller.
DATABASE = {"sacct", "sacctmgr", "sshare"}


def site(folder: Path, jobs: int) -> Path:
    """Make a checkout whose plan holds `jobs` trainings, with the links of a clone."""
    checkout(folder, ["wide"])
    path = folder / "config" / "papers" / "wide" / "paper.yaml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump(wide_paper(-(-jobs // 3))), encoding="utf-8")
    for name in ("profiles", "slurm"):
        (folder / name).symlink_to(os.readlink(ROOT / name))
    return folder


def _snakemake(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "snakemake", "--profile", "slurm", "--nocolor", *arguments]


def plan_time(folder: Path, jobs: int) -> dict[str, Any]:
    """Dry-run a plan of about `jobs` jobs with the SLURM profile; a training and its scoring are two jobs."""
    site(folder / "clone", jobs // 2)
    environment = FakeSlurm(folder / "slurm").environment()
    command = _snakemake("-n", "--quiet", "rules", "--", "runs")
    started = time.perf_counter()
    done = subprocess.run(
        command, cwd=folder / "clone", env=environment, capture_output=True, encoding="utf-8", check=False
    )
    seconds = time.perf_counter() - started
    if done.returncode:
        raise SystemExit((done.stdout + done.stderr)[-3000:])
    total, *_ = [line.split()[1] for line in (done.stdout + done.stderr).splitlines() if line.startswith("total ")]
    return {"jobs": int(total), "seconds": round(seconds, 1)}


def calls_a_minute(folder: Path, running: int, minutes: float) -> dict[str, Any]:
    """Let Snakemake watch `running` jobs that do not end, and count what it asks of SLURM from the moment that all are submitted."""
    from replica.config import load_project
    from replica.plan import build_plan

    clone, slurm = site(folder / "clone", running), FakeSlurm(folder / "slurm")
    plan = build_plan(load_project(clone, quick=False), "laptop")
    for run in plan.runs.values():
        for path in (
            clone / "assets" / "prepared" / run.data,
            *(clone / "assets" / "models" / name for name in run.models),
        ):
            path.mkdir(parents=True, exist_ok=True)
            (path / "manifest.json").touch()
    targets = [
        f"results/laptop/runs/{run.id}/seed{seed}/manifest.json"
        for run in plan.runs.values()
        for seed in sorted(run.seeds)
    ][:running]
    command = _snakemake("--jobs", str(running), "--", *targets)
    environment = slurm.environment(FAKE_SECONDS="100000")
    with (folder / "out").open("w", encoding="utf-8") as out:
        process = subprocess.Popen(command, cwd=clone, env=environment, stdout=out, stderr=out)
        try:
            until = time.time() + 300
            while len(list((slurm.folder / "jobs").iterdir())) < running:
                if time.time() > until or process.poll() is not None:
                    raise SystemExit((folder / "out").read_text(encoding="utf-8")[-3000:])
                time.sleep(0.5)
            start = time.time()
            time.sleep(60 * minutes)
            end = time.time()
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=120)
    calls = slurm.calls()
    steady = Counter(name for moment, name, _ in calls if start <= moment <= end)
    before = Counter(name for moment, name, _ in calls if moment < start)
    database = sum(count for name, count in steady.items() if name in DATABASE)
    return {
        "running": running,
        "minutes": minutes,
        "calls_to_submit": dict(before),
        "calls_while_running": dict(steady),
        "controller_calls_a_minute": round((sum(steady.values()) - database) / minutes, 2),
        "database_calls_a_minute": round(database / minutes, 2),
    }


def machine() -> dict[str, Any]:
    """Say what machine this is and how busy it was in the last five minutes: processes that ran or wanted to."""
    name = platform.processor() or platform.machine()
    return {"processor": name, "cores": os.cpu_count(), "load": round(os.getloadavg()[1], 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=10_000, help="jobs of the plan")
    parser.add_argument("--running", type=int, default=200, help="jobs that run at a time")
    parser.add_argument("--minutes", type=float, default=3.0, help="how long calls are counted")
    arguments = parser.parse_args()
    from replica.files import write_json

    here = machine()
    print(f"{here['cores']} cores, load {here['load']} before the start", flush=True)
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        plan = plan_time(Path(first), arguments.jobs)
        print(f"plan of {plan['jobs']} jobs: {plan['seconds']:.1f} s", flush=True)
        calls = calls_a_minute(Path(second), arguments.running, arguments.minutes)
        print(
            f"{calls['running']} running jobs: {calls['controller_calls_a_minute']} calls a minute to the controller, "
            f"{calls['database_calls_a_minute']} to the accounting database; to submit them: {calls['calls_to_submit']}"
        )
    write_json(ROOT / "benchmarks" / "cluster.json", {"plan": plan, "calls": calls, "machine": here})


if __name__ == "__main__":
    main()
