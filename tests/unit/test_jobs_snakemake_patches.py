"""What is changed in Snakemake: one look at a time is due, however many are asked for."""

from __future__ import annotations

import gc
import signal
import threading

import pytest

from replica.jobs.snakemake_patches import BENCHMARK_INTERVAL, patch_snakemake, schedule_look


class Scheduler:
    """Counts the looks that it is told to take."""

    def __init__(self):
        self._open_jobs = threading.Semaphore(0)

    def looks(self, seconds):
        """Return how many looks came within so many seconds of the one before."""
        count = 0
        while self._open_jobs.acquire(timeout=seconds):
            count += 1
        return count


def test_looks_asked_for_at_once_are_one():
    scheduler = Scheduler()
    for _ in range(50):
        schedule_look(scheduler, 0.2)
    assert scheduler.looks(1.0) == 1


def test_a_look_may_ask_for_the_next():
    scheduler = Scheduler()
    for _ in range(3):
        schedule_look(scheduler, 0.01)
        assert scheduler._open_jobs.acquire(timeout=10)


@pytest.fixture
def restored():
    """Put back what patching changes in this process."""
    import snakemake.benchmark
    import snakemake.common
    import snakemake.jobs
    import snakemake.rules
    from snakemake.scheduling.job_scheduler import JobScheduler

    look, interval = JobScheduler._schedule_reevalutation, snakemake.benchmark.BENCHMARK_INTERVAL_SHORT
    threshold, handler = gc.get_threshold(), signal.getsignal(signal.SIGUSR1)
    modules = (snakemake.common, snakemake.jobs, snakemake.rules)
    parameters = snakemake.common.get_function_params
    yield JobScheduler, snakemake.benchmark, modules
    for module in modules:
        module.get_function_params = parameters
    JobScheduler._schedule_reevalutation, snakemake.benchmark.BENCHMARK_INTERVAL_SHORT = look, interval
    gc.set_threshold(*threshold)
    signal.signal(signal.SIGUSR1, handler)


def test_patching_changes_what_snakemake_uses(restored):
    scheduler, benchmark, _ = restored
    patch_snakemake()
    assert scheduler._schedule_reevalutation is schedule_look
    assert benchmark.BENCHMARK_INTERVAL_SHORT == BENCHMARK_INTERVAL
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN


def test_parameters_of_a_function_are_looked_up_once(restored, monkeypatch):
    patch_snakemake()
    asked = []
    signature = restored[2][0].inspect.signature
    monkeypatch.setattr("inspect.signature", lambda function: asked.append(function) or signature(function))
    for module in restored[2]:
        assert list(module.get_function_params(lambda wildcards, attempt: None)) == ["wildcards", "attempt"]

        def same(wildcards, input):
            """Stand for an input function."""

        for _ in range(3):
            assert list(module.get_function_params(same)) == ["wildcards", "input"]
    assert len(asked) == 2 * len(restored[2]), "each function once"
