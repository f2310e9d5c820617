"""`replica status`: the state of a scale's runs, and how many claims of each paper have which verdict."""

from __future__ import annotations

from argparse import Namespace
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from replica.cli.explain import ledger_of
from replica.cli.terminal import console, plan_options, planned
from replica.errors import ConfigError, ResultError
from replica.jobs.run_state import state_of
from replica.paths import Layout
from replica.plan import Plan, Run

#: More runs than this are folded to one line a paper, unless `--runs` asks for each.
MANY = 40
#: States that are counted and not listed where runs are folded; the others ask for a look.
QUIET = ("done", "not run")
EVIDENCE = ("structural", "trend", "full")


def add(verbs: Any) -> None:
    """Add the verb `status` to the command line."""
    verb = verbs.add_parser(
        "status", help="runs that are done, running, interrupted, failed, not run; and each paper's claims"
    )
    verb.set_defaults(run=status)
    plan_options(verb)
    verb.add_argument("--runs", action="store_true", help="a line per run, however many there are")
    verb.add_argument("--ledger", help="ledger to count claims in (default: results/claims.json)")


def status(arguments: Namespace) -> int:
    """Print the state of every run of a scale, and each paper's claims by evidence and verdict."""
    _, plan = planned(arguments)
    layout = Layout(arguments.root)
    runs = [run for run in sorted(plan.runs.values(), key=lambda r: r.id) if run.seeds]
    states = {run.id: {seed: state_of(layout, plan, run, seed) for seed in sorted(run.seeds)} for run in runs}
    folded = len(runs) > MANY and not arguments.runs
    loud = [run for run in runs if not folded or set(states[run.id].values()) - set(QUIET)]
    if folded:
        console.print(_by_paper(plan, runs, states))
        console.print(f"{len(runs)} runs; `replica status --runs` or a paper's name lists them")
    if loud or not folded:
        console.print(
            _by_run("runs that are neither done nor waiting" if folded else f"runs at scale {plan.scale}", loud, states)
        )
    counts = Counter(state for seeds in states.values() for state in seeds.values())
    console.print(_counted(counts) or "nothing to run")
    _claims(arguments, list(plan.named))
    return 0


def _by_run(title: str, runs: list[Run], states: Mapping[str, Mapping[int, str]]) -> Table:
    table = _table(title, "run", "papers", "seeds: state")
    for run in runs:
        seeds = states[run.id]
        distinct = set(seeds.values())
        shown = distinct.pop() if len(distinct) == 1 else "  ".join(f"{seed}: {state}" for seed, state in seeds.items())
        table.add_row(run.id, ", ".join(sorted(run.papers)), f"{len(seeds)}: {shown}")
    return table


def _by_paper(plan: Plan, runs: list[Run], states: Mapping[str, Mapping[int, str]]) -> Table:
    """One line a paper; a run of two papers counts for both."""
    table = _table(f"runs at scale {plan.scale}, by paper", "paper", "runs", "jobs by state")
    for paper in plan.named:
        mine = [run for run in runs if paper in run.papers]
        counts = Counter(state for run in mine for state in states[run.id].values())
        if mine:
            table.add_row(paper, str(len(mine)), _counted(counts))
    return table


def _claims(arguments: Namespace, papers: list[str]) -> None:
    """Print how many rows of the ledger have which verdict, by paper and evidence; one line where there is no ledger yet."""
    from replica.claims.ledger import summary
    from replica.report.marks import MARKS

    try:
        path, rows = ledger_of(arguments.root, arguments.ledger)
    except ResultError:
        if arguments.ledger or (Path(arguments.root) / "results" / "claims.json").exists():
            raise
        pinned = Path(arguments.root) / "results" / "pinned" / "claims.json"
        hint = f"; `--ledger {pinned}` counts what is pinned" if pinned.exists() else ""
        console.print(f"claims: no ledger yet (results/claims.json); `snakemake` makes it{hint}")
        return
    counts_by_paper = summary(_checked(path, rows))
    scales = sorted({row["scale"] for row in rows if row["paper"] in papers})
    table = _table(f"claims at scale {', '.join(scales) or '-'}: rows of {path}", "paper", *EVIDENCE)
    totals: dict[str, Counter[str]] = {kind: Counter() for kind in EVIDENCE}
    listed = [paper for paper in papers if paper in counts_by_paper]
    for paper in listed:
        for kind in EVIDENCE:
            totals[kind].update(counts_by_paper[paper].get(kind, {}))
        table.add_row(paper, *(_counted(counts_by_paper[paper].get(kind, {}), MARKS) for kind in EVIDENCE))
    if len(listed) > 1:
        table.add_section()
        table.add_row("all", *(_counted(totals[kind], MARKS) for kind in EVIDENCE), style="bold")
    console.print(table)
    if missing := [paper for paper in papers if paper not in counts_by_paper]:
        console.print(f'no row in the ledger: {", ".join(missing)} (`snakemake --config papers="…"` compares them)')


def _checked(path: Path, rows: Any) -> list[dict[str, Any]]:
    needed = {"paper", "evidence", "verdict", "scale"}
    if not isinstance(rows, list) or not all(isinstance(row, dict) and needed <= set(row) for row in rows):
        raise ConfigError(
            f"{path}: not a ledger: expected rows with {', '.join(sorted(needed))}; make it again with `snakemake`"
        )
    return rows


def _counted(counts: Mapping[str, int], order: Mapping[str, Any] | None = None) -> str:
    names = [name for name in order if name in counts] if order else []
    return ", ".join(f"{name} {counts[name]}" for name in [*names, *sorted(set(counts) - set(names))])


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
