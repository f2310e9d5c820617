"""Changes of this workflow to Snakemake (made for 9.27.1), so that a long DAG costs the cores its jobs need and no more."""

from __future__ import annotations

import functools
import gc
import signal
import threading
from typing import Any

from replica.jobs import snakemake_lock

#: Seconds between two looks at a job's memory for its `benchmark:` file. A look reads all mappings of the process, a tenth of a second
#: for a program with torch; twice a second for the first 30 looks, Snakemake's own, took a sixth of two cores.
BENCHMARK_INTERVAL = 5


def schedule_look(scheduler: Any, delay: float) -> None:
    """Have a `JobScheduler` look for jobs again after `delay` seconds, unless such a look is due already.

    Takes the place of its `_schedule_reevalutation`. Jobs a second are limited by default, so the scheduler asks at the end of each look
    for another a second later, and at the end of that one again, without end; and every finished job begins one more such chain. After
    200 jobs that took half a core.
    """
    if getattr(scheduler, "_look_is_due", False):
        return

    def look() -> None:
        scheduler._look_is_due = False
        scheduler._open_jobs.release()

    scheduler._look_is_due = True
    timer = threading.Timer(delay, look)
    timer.daemon = True  # a scheduler that has ended waits for no look
    timer.start()


def patch_snakemake() -> None:
    """Apply the changes to this process. Raises AttributeError where a new Snakemake lacks a changed name."""
    import snakemake.benchmark
    import snakemake.common
    import snakemake.jobs
    import snakemake.rules
    from snakemake.persistence import PersistenceBase
    from snakemake.scheduling.job_scheduler import JobScheduler

    getattr(JobScheduler, "_schedule_reevalutation")  # noqa: B009 - renamed, the one in use would stay
    JobScheduler._schedule_reevalutation = schedule_look
    getattr(snakemake.benchmark, "BENCHMARK_INTERVAL_SHORT")  # noqa: B009
    snakemake.benchmark.BENCHMARK_INTERVAL_SHORT = BENCHMARK_INTERVAL
    PersistenceBase.lock = snakemake_lock.held(PersistenceBase.lock)
    # The parameters of each input, params and resources function are asked for at each job: 25 times, an eighth of planning.
    parameters = functools.lru_cache(maxsize=4096)(snakemake.common.get_function_params)
    for module in (snakemake.common, snakemake.jobs, snakemake.rules):
        getattr(module, "get_function_params")  # noqa: B009
        module.get_function_params = parameters
    # Near its time limit every process of a job may be told by SIGUSR1, which would end this one; only training answers it.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    # A large DAG is millions of objects that live as long as the process: the garbage collector need not walk them at every step.
    gc.set_threshold(2_000_000, 50, 100)
