"""`replica logs RUN`: state of each seed and the ends of its jobs' logs. `replica forget RUN`: let a failed run be tried again."""

from __future__ import annotations

import re
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.text import Text

from replica.cli.terminal import console, print_text, scale_option, shortened
from replica.config import load_project
from replica.errors import ConfigError, ReplicaError, nearest
from replica.files import read_json
from replica.jobs.run_state import state_of
from replica.paths import FAILED, MEMORY, Layout
from replica.plan import Plan, Run, build_plan
from replica.training import failures

#: Folders of SLURM's own logs of jobs: the profiles' folder, and the executor's default.
SLURM_LOGS = ("logs/slurm", ".snakemake/slurm_logs")
#: How many of SLURM's newest logs are read where their names do not hold the run (jobs of an array).
LOOKED_AT = 200


def add(verbs: Any) -> None:
    """Add the verbs `logs` and `forget` to the command line."""
    show = verbs.add_parser("logs", help="the state of a run's seeds and the ends of its jobs' logs, SLURM's included")
    show.set_defaults(run=logs)
    show.add_argument("--lines", type=int, default=20, help="last lines of every log, 0 for all (default: 20)")
    show.add_argument("--paths", action="store_true", help="print the files' names alone")
    retry = verbs.add_parser("forget", help="forget a run's remembered failures, so that it is tried again")
    retry.set_defaults(run=forget)
    for verb in (show, retry):
        verb.add_argument("run_name", metavar="RUN", help="a run's id, a part of it, or a paper's name for it")
        scale_option(verb)
        verb.add_argument("--seed", type=int, help="one seed (default: all)")


def logs(arguments: Namespace) -> int:
    """Print state, remembered failure and the end of the logs of one run's seeds."""
    layout = Layout(arguments.root)
    plan, run = find_run(arguments)
    seeds = sorted(run.seeds) if arguments.seed is None else [arguments.seed]
    if arguments.paths:
        for path in files(layout, plan.scale, run.id, arguments.seed):
            print(path)
        return 0
    console.print(Text(run.id, "bold"), f" ({', '.join(sorted(run.names))})")
    for seed in seeds:
        print_text(f"seed {seed}: {_state(layout, plan, run, seed)}")
    paths = list(files(layout, plan.scale, run.id, arguments.seed))
    for path in paths:
        _show(path, arguments.lines)
    if not paths:
        console.print(f"no log of this run at scale {plan.scale}: none of its jobs was started here")
    return 0


def forget(arguments: Namespace) -> int:
    """Remove the remembered failures and memory shortages of a run's seeds, so that the next call tries them as if for the first time."""
    layout = Layout(arguments.root)
    plan, run = find_run(arguments)
    seeds = sorted(run.seeds) if arguments.seed is None else [arguments.seed]
    removed = failures.forget(layout, plan.scale, run.id, seeds)
    for path in removed:
        console.print(f"removed {path}")
    if not removed:
        console.print(f"{run.id}: no failure was remembered")
    return 0


def find_run(arguments: Namespace) -> tuple[Plan, Run]:
    """Return the plan and the run that the name means: by id, by a part of it, or by a paper's name for it.

    Enabled papers come first, then all papers' files; ConfigError where none or several fit.
    """
    wanted, known = arguments.run_name, []
    for papers in (None, "all"):
        project = load_project(arguments.root, quick=False)
        if papers:
            project = load_project(arguments.root, quick=False, papers=list(project.paper_folders))
        plan = build_plan(project, arguments.scale)
        runs = [run for run in plan.runs.values() if run.seeds]
        exact = [run for run in runs if wanted == run.id or wanted in run.names]
        fitting = exact or [run for run in runs if wanted in run.id]
        if len(fitting) == 1:
            return plan, fitting[0]
        if fitting:
            raise ConfigError(f"'{wanted}' fits {len(fitting)} runs: {shortened(sorted(run.id for run in fitting), 8)}")
        known = [run.id for run in runs]
    raise ConfigError(f"no run '{wanted}' at scale {plan.scale}{nearest(wanted, known)}")


def files(layout: Layout, scale: str, run_id: str, seed: int | None = None) -> Iterator[Path]:
    """Give the logs of a run's jobs, oldest first: those of the programs, then SLURM's own."""
    chosen = r"\d+" if seed is None else str(seed)
    name = re.compile(rf"{re.escape(run_id)}-seed{chosen}(\D.*)?\.log")
    own = [
        path
        for path in layout.root.glob(f"logs/*/{scale}/{run_id}-seed*.log")
        if name.fullmatch(path.name) and path.stat().st_size
    ]
    yield from sorted(own, key=_when)
    others = [path for name in SLURM_LOGS for path in (layout.root / name).rglob("*.log")]
    named = [path for path in others if run_id in str(path)]
    if not named:
        newest = sorted(others, key=_when)[-LOOKED_AT:]
        named = [path for path in newest if run_id in path.read_text(encoding="utf-8", errors="replace")]
    yield from sorted(named, key=_when)


def _state(layout: Layout, plan: Plan, run: Run, seed: int) -> str:
    folder = layout.resume(plan.scale, run.id, seed)
    try:
        text = state_of(layout, plan, run, seed)
    except ReplicaError as error:
        text = str(error)
    steps = [int(path.name.rpartition("-")[2]) for path in folder.glob("checkpoint-*") if path.name[11:].isdigit()]
    if steps:
        text += f", checkpoint of step {max(steps)}"
    for name, shown in ((FAILED, _failure), (MEMORY, _parts)):
        if (folder / name).exists():
            try:
                text += shown(read_json(folder / name))
            except (ReplicaError, KeyError, TypeError):
                text += f"; {folder / name} cannot be read"
    return text


def _failure(facts: dict) -> str:
    return f"; failed with status {facts['status']} at {facts['when']}, not tried again: {facts['message']}"


def _parts(facts: dict) -> str:
    return f"; micro-batches in {facts['parts']} parts, because memory was short"


def _show(path: Path, lines: int) -> None:
    text = path.read_text(encoding="utf-8", errors="replace").splitlines()
    shown = text[-lines:] if lines else text
    left = f", the last {len(shown)} of {len(text)} lines" if len(shown) < len(text) else ""
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(_when(path)))
    print_text(f"\n== {path} ({when}{left})")
    for line in shown:
        print(line)


def _when(path: Path) -> float:
    return path.stat().st_mtime
