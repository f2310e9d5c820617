"""How a plan falls on a profile: `replica plan --profile NAME`."""

from __future__ import annotations

from rich.console import Console

from replica.config import Project
from replica.plan import Plan
from replica.plan.profiles import fit, read_profile


def show(console: Console, project: Project, plan: Plan, name: str) -> None:
    """Print the jobs and GPU hours of each partition, and a line for each kind of job that exceeds the profile's limits."""
    profile = read_profile(project.root, name)
    found = fit(project, plan, profile)
    for partition, (jobs, hours) in sorted(found.partitions.items()):
        console.print(
            f"profile {name}: partition {partition}: {jobs:.0f} jobs, {hours:,.1f} GPU hours", highlight=False
        )
    for line in found.warnings:
        console.print(f"warning: {line}", style="yellow", highlight=False)
    if not found.warnings:
        console.print(f"profile {name}: every job fits its limits", highlight=False)
