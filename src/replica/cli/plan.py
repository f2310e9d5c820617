"""`replica plan`: runs, shared jobs, hours, disk and longest path of a scale, before anything starts."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from rich.table import Table

from replica.cli.terminal import console, plan_options, planned
from replica.config import Project
from replica.plan import Plan, Resources, Run
from replica.plan.resources import longest_path, training_resources, widest_point

STAGES = ("pretrain", "teacher", "targets", "compress", "adapt")


def add(verbs: Any) -> None:
    """Add the verb `plan` to the command line."""
    verb = verbs.add_parser("plan", help="runs, shared jobs, hours, disk and longest path before anything starts")
    verb.set_defaults(run=print_plan)
    plan_options(verb)
    verb.add_argument("--runs", action="store_true", help="a line per run")
    verb.add_argument(
        "--profile", metavar="NAME", help="also what falls on a profile's partitions, and what exceeds its limits"
    )


def print_plan(arguments: Namespace) -> int:
    """Print the runs of a scale by stage with their cost, the longest path and the widest point."""
    project, plan = planned(arguments)
    runs = [run for run in plan.runs.values() if run.seeds]
    costs = {run.id: training_resources(project, plan, run.id) for run in runs}
    table = Table(title=f"plan at scale {plan.scale}: {', '.join(plan.named)}", title_justify="left")
    for column in ("stage", "runs", "jobs", "shared by papers", "hours", "disk GB"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for stage in STAGES:
        of_stage = [run for run in runs if run.stage == stage]
        if of_stage:
            table.add_row(stage, *_totals(of_stage, costs))
    table.add_row("all", *_totals(runs, costs), style="bold")
    console.print(table)
    for run in runs:
        if len(run.papers) > 1:
            console.print(f"shared: {run.id} by {', '.join(sorted(run.papers))}")
    seconds, path = longest_path(project, plan)
    gpu_hours = sum(c.seconds * c.gpu * len(plan.runs[i].seeds) for i, c in costs.items()) / 3600
    console.print(
        f"GPU hours (estimated): {gpu_hours:,.1f}; longest path {seconds / 3600:.2f} h over {len(path)} runs:"
    )
    console.print("  " + " → ".join(path))
    widest = widest_point(project, plan)
    disk = sum(c.disk_mb * len(plan.runs[i].seeds) for i, c in costs.items()) / 1000
    console.print(
        f"widest point: {widest['jobs']} training jobs, {widest['gpus']} GPUs at a time; disk for weights: {disk:,.1f} GB"
    )
    if arguments.profile:
        _print_profile(project, plan, arguments.profile)
    if arguments.runs:
        for run in sorted(runs, key=lambda r: r.id):
            cost = costs[run.id]
            names = ", ".join(sorted(run.names))
            console.print(
                f"{run.id}  seeds {sorted(run.seeds)}  {cost.steps} steps  {cost.seconds / 60:.1f} min  "
                f"threads {cost.threads}  mem_mb {cost.mem_mb}  runtime {cost.runtime}  gpu {cost.gpu}  "
                f"nodes {cost.nodes}  GB on {'a GPU' if cost.gpu else 'the processor'} {cost.gpu_mem_mb / 1000:.1f}  ({names})"
            )
    return 0


def _totals(runs: list[Run], costs: dict[str, Resources]) -> list[str]:
    jobs = sum(len(run.seeds) for run in runs)
    hours = sum(costs[run.id].seconds * len(run.seeds) for run in runs) / 3600
    disk = sum(costs[run.id].disk_mb * len(run.seeds) for run in runs) / 1000
    shared = sum(len(run.papers) > 1 for run in runs)
    return [str(len(runs)), str(jobs), str(shared), f"{hours:,.2f}", f"{disk:,.2f}"]


def _print_profile(project: Project, plan: Plan, name: str) -> None:
    """Print the jobs and GPU hours of each partition, and a line for each kind of job that exceeds the profile's limits."""
    from replica.plan.profiles import fit, read_profile

    load = fit(project, plan, read_profile(project.root, name))
    for partition, (jobs, hours) in sorted(load.partitions.items()):
        console.print(f"profile {name}: partition {partition}: {jobs:.0f} jobs, {hours:,.1f} GPU hours")
    for warning in load.warnings:
        console.print(f"warning: {warning}", style="yellow")
    if not load.warnings:
        console.print(f"profile {name}: every job fits its limits")
