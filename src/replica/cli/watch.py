"""`replica watch`: follow the jobs of a scale from another terminal or machine until nothing runs any more."""

from __future__ import annotations

import os
import socket
import threading
import time
from argparse import Namespace
from collections.abc import Callable
from contextlib import suppress

from rich.live import Live
from rich.table import Table
from rich.text import Text

from replica.cli.verbs import console, planned, state_of
from replica.config import Project
from replica.errors import ConfigError, ReplicaError
from replica.jobs.planned import jobs
from replica.jobs.progress import Look, Running, Watcher
from replica.paths import Layout
from replica.plan import Plan

#: Seconds between two looks: where the picture is renewed in place, and where each look is one more line of a log.
EVERY = {True: 5.0, False: 60.0}
#: Running jobs that a line of a log names.
NAMED = 3


def watch(arguments: Namespace) -> int:
    """Show progress, renewed in place on a terminal and as lines elsewhere, until nothing runs; once with `--once`."""
    every = EVERY[console.is_terminal] if arguments.every is None else arguments.every
    if not every > 0:
        raise ConfigError(f"--every {every:g}: give seconds above 0")
    project, made = planned(arguments)
    watcher = Watcher(Layout(arguments.root), made, jobs(project, made), state_of)
    with suppress(KeyboardInterrupt):
        if console.is_terminal and not arguments.once:
            with Live(console=console, auto_refresh=False) as live:
                while True:
                    found = watcher.look()
                    live.update(picture(found, console.height), refresh=True)
                    if found.over:
                        break
                    time.sleep(every)
        else:
            while True:
                found = watcher.look()
                _say(line(found) if not arguments.once else "\n".join([headline(found), *map(sentence, found.running)]))
                if found.over or arguments.once:
                    break
                time.sleep(every)
        if found.over and found.done < found.total:
            _say("nothing runs here; `snakemake` (or the make verb you began with) goes on where it stopped")
    return 0


def beside(project: Project, plan: Plan, say: Callable[[str], None], every: float = EVERY[False]) -> threading.Event:
    """Say how much is to do, and every minute how far it is, in a thread that ends with this process, or after the returned event is set.

    What cannot be read is said instead. A look never takes more than a fiftieth of the time: where it is slow (many jobs, a shared file
    system), the next comes later.
    """
    watcher = Watcher(Layout(project.root), plan, jobs(project, plan), state_of)
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


def outlook(found: Look) -> str:
    """Return one line before anything runs: how many jobs are done, and how long the rest takes on this machine's cores."""
    text = f"{found.done} of {found.total} jobs are done"
    if found.left is None:
        return f"{text}; comparing, tables and report are left"
    cores = os.cpu_count() or 1
    work = found.left * max(1, len(found.running))
    return (
        f"{text}; the rest is about {duration(work)} of one job at a time, {duration(work / cores)} with {cores} at a time"
        " (measured where jobs of the kind have run here, estimated elsewhere); stopped, the same call goes on"
    )


def headline(found: Look, now: float | None = None) -> str:
    """Return one line: jobs done, running, submitted and failed, and the expected end where something runs."""
    now = time.time() if now is None else now
    counts = [f"{found.done} of {found.total} jobs done", f"{len(found.running)} running"]
    counts += [f"{len(found.submitted)} submitted"] if found.submitted else []
    counts += [f"{len(found.failed)} failed"] if found.failed else []
    text = f"{time.strftime('%H:%M:%S', time.localtime(now))}  {', '.join(counts)}"
    if found.left is None:
        return text + ("; tables and report are left" if found.at_work else "")
    if found.running:
        day = "%a %H:%M" if found.left > 12 * 3600 else "%H:%M"
        return (
            f"{text}; about {duration(found.left)} left, until {time.strftime(day, time.localtime(now + found.left))}"
        )
    return text + ("; Snakemake holds the folder" if found.at_work else "")


def line(found: Look) -> str:
    """Return the headline and the first running jobs as one line."""
    parts = [headline(found), *(sentence(item) for item in found.running[:NAMED])]
    more = len(found.running) - NAMED
    return " | ".join([*parts, *([f"and {more} more"] if more > 0 else [])])


def sentence(item: Running) -> str:
    """Say of a running job what it makes, for how long, how far it is and, if elsewhere, where."""
    return "  ".join(filter(None, (item.job.rule, _name(item), _far(item), _where(item))))


def picture(found: Look, height: int) -> Table:
    """Return the headline and a line for each running job, as many as a screen of this height takes."""
    table = Table(title=Text(headline(found)), title_justify="left", pad_edge=False, show_header=bool(found.running))
    for column in ("rule", "what", "progress", "host"):
        table.add_column(column, overflow="fold")
    most = max(1, height - 8)
    for item in found.running[:most]:
        table.add_row(*(Text(cell) for cell in (item.job.rule, _name(item), _far(item), _where(item))))
    if len(found.running) > most:
        table.add_row("", f"and {len(found.running) - most} more", "", "")
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


def _say(text: str) -> None:
    console.print(text, highlight=False, markup=False)
