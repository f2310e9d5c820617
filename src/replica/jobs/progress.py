"""One look at a scale's jobs: done, running with step and loss, submitted, failed; and how long the rest will take.

Everything is read from files below the root (results, logs, state, Snakemake's own marks), so it works from any machine that sees them.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from replica.files import read_result
from replica.jobs.run_state import state_of
from replica.jobs.snakemake_records import Records
from replica.paths import PROCESS, Layout
from replica.plan import Plan
from replica.plan.planned_jobs import Job
from replica.training import steps


@dataclass(frozen=True)
class Running:
    """A job at work: seconds since its start; host and step where its record and log have them."""

    job: Job
    seconds: float
    host: str | None = None
    step: steps.Step | None = None


@dataclass
class Look:
    """The state of all jobs at one moment; `left` is the seconds until the last job ends, None where all are done."""

    total: int
    done: int = 0
    running: list[Running] = field(default_factory=list)
    submitted: list[Job] = field(default_factory=list)
    failed: list[Job] = field(default_factory=list)
    #: Snakemake holds this folder
    at_work: bool = False
    left: float | None = None

    @property
    def over(self) -> bool:
        """Whether no job runs and no Snakemake is there to start one."""
        return not self.running and not self.at_work


class Watcher:
    """Looks at the jobs of a plan again and again."""

    def __init__(self, layout: Layout, plan: Plan, jobs: list[Job]):
        self.layout, self.plan, self.jobs = layout, plan, jobs
        self._records = Records(layout.root)

    def look(self, now: float | None = None) -> Look:
        """Look once."""
        now = time.time() if now is None else now
        root = self.layout.root
        look = Look(total=len(self.jobs), at_work=any((root / ".snakemake" / "locks").glob("*.lock")))
        marked = self._records.unfinished(job.output for job in self.jobs) if look.at_work else {}
        waiting, done = [], []
        for job in self.jobs:
            running = self._running(job, marked.get(job.output), now)
            if running is not None:
                look.running.append(running)
            elif job.output in marked:
                look.submitted.append(job)
            elif (root / job.output).exists():
                look.done += 1
                done.append(job)
                continue
            elif job.run and self._state(job) == "failed":
                look.failed.append(job)
            waiting.append(job)
        look.left = self._left(look, waiting, self._expected(done))
        return look

    def _state(self, job: Job) -> str:
        run_id, seed = job.run or ("", 0)
        return state_of(self.layout, self.plan, self.plan.runs[run_id], seed)

    def _running(self, job: Job, marked: float | None, now: float) -> Running | None:
        """Return how a job is at work: by its process's own record, or by Snakemake's mark and a log begun after it."""
        log = self.layout.log(job.rule, job.name)
        if job.run:
            record = self.layout.resume(self.plan.scale, *job.run) / PROCESS
            state = self._state(job)
            if state == "running" or state.startswith("started on "):
                try:
                    host, begun = read_result(record, {"host": str})["host"], record.stat().st_mtime
                except FileNotFoundError:
                    return None  # it ended meanwhile
                return Running(job, now - begun, host, _newer(log, begun))
        begun = _written(log)
        if marked is not None and begun is not None and begun >= marked - 1:  # file systems' clocks round
            return Running(job, now - marked, step=_newer(log, marked - 1))
        return None

    def _expected(self, done: list[Job]) -> Callable[[Job], float]:
        """Return how many seconds a job will take.

        That is the mean of the measured times of the run's other seeds; else the plan's estimate, times how much longer than their
        estimates the finished jobs of its rule took together; else the plan's estimate.
        """
        own: dict[tuple[str, str], list[float]] = defaultdict(list)
        taken: dict[str, float] = defaultdict(float)
        planned: dict[str, float] = defaultdict(float)
        for job in done:
            seconds = measured(self.layout.benchmark(job.rule, job.name))
            if seconds is not None and job.seconds > 0:
                own[job.rule, _stem(job)].append(seconds)
                taken[job.rule] += seconds
                planned[job.rule] += job.seconds

        def expected(job: Job) -> float:
            if job.seconds > 0 and (same := own.get((job.rule, _stem(job)))):
                return sum(same) / len(same)
            return job.seconds * (taken[job.rule] / planned[job.rule] if planned.get(job.rule) else 1.0)

        return expected

    @staticmethod
    def _left(look: Look, waiting: list[Job], expected: Callable[[Job], float]) -> float | None:
        """Return the longer of two: all that is left shared by as many jobs at a time as run now, and the longest chain of it."""
        if not waiting:
            return None
        rest = {job.output: expected(job) for job in waiting}
        for running in look.running:
            known = running.step.left if running.step else rest[running.job.output] - running.seconds
            rest[running.job.output] = max(0.0, known)
        by_output = {job.output: job for job in waiting}
        chains: dict[str, float] = {}

        def chain(output: str) -> float:
            if output not in by_output:
                return 0.0
            if output not in chains:
                chains[output] = rest[output] + max((chain(name) for name in by_output[output].inputs), default=0.0)
            return chains[output]

        return max(sum(rest.values()) / max(1, len(look.running)), max(chain(output) for output in by_output))


def measured(benchmark: Path) -> float | None:
    """Return the seconds in a benchmark file of Snakemake's, or None where there are none."""
    try:
        header, values, *_ = benchmark.read_text(encoding="utf-8").splitlines()
        return float(dict(zip(header.split("\t"), values.split("\t"), strict=False))["s"])
    except (OSError, ValueError, KeyError):
        return None


def _stem(job: Job) -> str:
    """Return the job's name without its seed."""
    return job.name.rpartition("-seed")[0] or job.name


def _written(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return None


def _newer(log: Path, begun: float) -> steps.Step | None:
    """Return the last step in a log that was written since `begun`; an older one is of an earlier try."""
    written = _written(log)
    return steps.last(log) if written is not None and written >= begun - 1 else None
