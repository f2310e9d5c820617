"""The state of one seed of a run, read from the files that its jobs leave."""

from __future__ import annotations

import socket

from replica.files import is_alive, read_result
from replica.paths import FAILED, MANIFEST, PROCESS, Layout, job_name
from replica.plan import Plan, Run


def state_of(layout: Layout, plan: Plan, run: Run, seed: int) -> str:
    """Return `done`, `starting`, `running`, `started on HOST`, `interrupted`, `failed` or `not run`.

    A process on this machine is looked up by its number; one on another machine is taken at its record's word.
    """
    if (layout.run(plan.scale, run.id, seed) / MANIFEST).exists():
        return "done"
    record = layout.resume(plan.scale, run.id, seed) / PROCESS
    if record.exists():
        facts = read_result(record, {"pid": int, "host": str})
        if "stopped" in facts:
            return "interrupted"
        if facts["host"] != socket.gethostname():
            return f"started on {facts['host']}"
        return "running" if is_alive(facts["pid"]) else "interrupted"
    if (record.parent / FAILED).exists():
        return "failed"
    log = layout.log(run.rule, job_name(plan.scale, run.id, seed))
    if not log.exists():
        return "not run"
    return "failed" if log.stat().st_size else "starting"  # a job that fails prints the reason
