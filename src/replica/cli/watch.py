"""`replica watch`: follow the jobs of a scale from another terminal or machine until nothing runs any more."""

from __future__ import annotations

import os
import socket
import threading
import time
from argparse import Namespace
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from rich.live import Live
from rich.table import Table
from rich.text import Text

from replica.cli.terminal import console, plan_options, planned, print_text
from replica.config import Project
from replica.errors import ConfigError, ReplicaError
from replica.jobs.progress import Look, Running, Watcher
from replica.paths import Layout
from replica.plan import Plan
from replica.plan.planned_jobs import planned_jobs

#: Seconds between two looks: where the picture is renewed in place, and where each look is one more line of a log.
EVERY = {True: 5.0, False: 60.0}
#: Running jobs that a line of a log names.
NAMED = 3


def add(verbs: Any) -> None:
    """Add the verb `watch` to the command line."""
    verb = verbs.add_parser("watch", help="follow the jobs: how many are done, steps and losses, expected end")
    verb.set_defaults(run=watch)
    plan_options(verb)
    verb.add_argument("--once", action="store_true", help="look once")
    verb.add_argument(
        "--every", type=float, metavar="SECONDS", help="between two looks (default: 5 on a terminal, else 60)"
    )


def watch(arguments: Namespace) -> int:
    """Show progress, renewed in place on a terminal and as lines elsewhere, until nothing runs; once with `--once`."""
    every = EVERY[console.is_terminal] if arguments.every is None else arguments.every
    if not every > 0:
        raise ConfigError(f"--every {every:g}: give seconds above 0")
    project, plan = planned(arguments)
    watcher = Watcher(Layout(arguments.root), plan, planned_jobs(project, plan))
    with suppress(KeyboardInterrupt):
        if console.is_terminal and not arguments.once:
            with Live(console=console, auto_refresh=False) as live:
                while True:
                    look = watcher.look()
                    live.update(picture(look, console.height), refresh=True)
                    if look.over:
                        break
                    time.sleep(every)
        else:
            while True:
                look = watcher.look()
                print_text(
                    line(look) if not arguments.once else "\n".join([headline(look), *map(sentence, look.running)])
                )
                if look.over or arguments.once:
                    break
                time.sleep(every)
        if look.over and look.done < look.total:
            print_text("nothing runs here; `snakemake` (or the make verb you began with) goes on where it stopped")
    return 0


def progress_thread(
    project: Project, plan: Plan, say: Callable[[str], None], every: float = EVERY[False]
) -> threading.Event:
    """Report progress every minute from a thread that ends with this process, or after the returned event is set.

    A file that cannot be read is reported instead. A look never takes more than a fiftieth of the time: where it is slow (many jobs,
    a shared file system), the next comes later.
    """
    watcher = Watcher(Layout(project.root), plan, planned_jobs(project, plan))
    ended = threading.Event()

    def follow() -> None:
        pause, tell = 0.0, outlook
        while not ended.wait(pause):
            begun = time.monotonic()
            try:
                say(tell(watcher.look()))
                tell = line
            except (ReplicaError, OSError) as error:
                say(f"progress: {error}")
            pause = max(every, 50 * (time.monotonic() - begun))

    threading.Thread(target=follow, name="progress", daemon=True).start()
    return ended


def outlook(look: Look) -> str:
    """Return one line before anything runs: how many jobs are done, and how long the rest takes on this machine's cores."""
    text = f"{look.done} of {look.total} jobs are done"
    if look.left is None:
        return f"{text}; comparing, tables and report are left"
    cores = os.cpu_count() or 1
    work = look.left * max(1, len(look.running))
    return (
        f"{text}; the rest is about {duration(work)} of one job at a time, {duration(work / cores)} with {cores} at a time"
        " (measured where jobs of the kind have run here, estimated elsewhere); stopped, the same call goes on"
    )


def headline(look: Look, now: float | None = None) -> str:
    """Return one line: jobs done, running, submitted and failed, and the expected end where something runs."""
    now = time.time() if now is None else now
    counts = [f"{look.done} of {look.total} jobs done", f"{len(look.running)} running"]
    counts += [f"{len(look.submitted)} submitted"] if look.submitted else []
    counts += [f"{len(look.failed)} failed"] if look.failed else []
    text = f"{time.strftime('%H:%M:%S', time.localtime(now))}  {', '.join(counts)}"
    if look.left is None:
        return text + ("; tables and report are left" if look.at_work else "")
    if look.running:
        day = "%a %H:%M" if look.left > 12 * 3600 else "%H:%M"
        return f"{text}; about {duration(look.left)} left, until {time.strftime(day, time.localtime(now + look.left))}"
    return text + ("; Snakemake holds the folder" if look.at_work else "")


def line(look: Look) -> str:
    """Return the headline and the first running jobs as one line."""
    parts = [headline(look), *(sentence(item) for item in look.running[:NAMED])]
    more = len(look.running) - NAMED
    return " | ".join([*parts, *([f"and {more} more"] if more > 0 else [])])


def sentence(item: Running) -> str:
    """Return rule, run, progress and (if elsewhere) host of a running job as one line."""
    return "  ".join(filter(None, (item.job.rule, _name(item), _far(item), _where(item))))


def picture(look: Look, height: int) -> Table:
    """Return the headline and a line for each running job, as many as a screen of this height takes."""
    table = Table(title=Text(headline(look)), title_justify="left", pad_edge=False, show_header=bool(look.running))
    for column in ("rule", "run", "progress", "host"):
        table.add_column(column, overflow="fold")
    most = max(1, height - 8)
    for item in look.running[:most]:
        table.add_row(*(Text(cell) for cell in (item.job.rule, _name(item), _far(item), _where(item))))
    if len(look.running) > most:
        table.add_row("", f"and {len(look.running) - most} more", "", "")
    return table


def duration(seconds: float) -> str:
    """Return seconds in the unit that a person would choose."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _name(item: Running) -> str:
    return item.job.name.rpartition("/")[2]


def _far(item: Running) -> str:
    if item.step is None:
        return f"for {duration(item.seconds)}"
    step = item.step
    return f"step {step.done}/{step.total}, loss {step.loss:.4f}, {duration(step.left)} left"


def _where(item: Running) -> str:
    return f"on {item.host}" if item.host and item.host != socket.gethostname() else ""
