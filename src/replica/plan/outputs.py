"""What the DAG must make for the enabled papers: which seeds are scored, what a paper's comparison reads, when it is stale."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from replica.assets.at_hand import presence
from replica.config.asset_schema import DatasetEntry, ModelEntry
from replica.config.project import Project
from replica.config.schema import Paper
from replica.plan.runs import Plan


def evaluated_runs(plan: Plan, paper: str | None = None) -> list[tuple[str, int]]:
    """Return (run, seed) of everything that claims of a paper (or of all) read metrics of."""
    found = []
    for name, wanted in plan.wanted.items():
        if paper is None or name == paper:
            for run_id in wanted:
                run = plan.runs[run_id]
                if run.evaluate:
                    found += [(run_id, seed) for seed in sorted(run.seeds)]
    return sorted(set(found))


def measured_runs(plan: Plan, paper: str) -> list[tuple[str, int]]:
    """Return (run, first seed) of the paper's wanted runs whose cost is measured."""
    return [(run_id, 0) for run_id in plan.wanted.get(paper, []) if plan.runs[run_id].measure]


def paper_inputs(project: Project, plan: Plan, paper: str) -> list[str]:
    """Return the files that the paper's claims are computed from at the plan's scale."""
    folder = f"results/{plan.scale}/runs"
    files = [f"{folder}/{run}/seed{seed}/metrics.json" for run, seed in evaluated_runs(plan, paper)]
    files += [f"{folder}/{run}/seed{seed}/measures.json" for run, seed in measured_runs(plan, paper)]
    return [f"results/structural/{paper}.json", *files]


def claimed_papers(project: Project) -> list[str]:
    """Return the enabled papers that have a claim which was asked for by name (`--config claims=`)."""
    wanted = set(project.settings.claims or [])
    return [name for name, paper in project.papers.items() if any(claim.id in wanted for claim in paper.claims)]


def fingerprint(paper: Paper, part: str, project: Project | None = None) -> str:
    """Return a hash of the part of a paper's file that a rule depends on: `claims`, `measurements` or `layout`.

    The hash of measurements that count a data set's rows covers whether its files are here.
    With a project the hash of the claims covers what the settings say of them: default tolerances and confidence level.
    """
    if part == "claims":
        value: Any = [claim.model_dump(mode="json", exclude_defaults=True) for claim in paper.claims]
        arms = {table.id: table.arms for table in paper.tables if table.arms}
        value = [value, arms] if arms else value
        if project is not None:
            value = [value, project.settings.model_dump(mode="json", include={"tolerances", "confidence_level"})]
    elif part == "measurements":
        models = {item.model for item in paper.measurements.values() if item.model is not None}
        counted = {name for item in paper.measurements.values() for name in item.datasets}
        value = [
            {name: item.model_dump(mode="json", exclude_defaults=True) for name, item in paper.measurements.items()},
            {
                name: project.model(name).model_dump(mode="json", include={"architecture", "config"})
                for name in sorted(models)
            },
            _method_versions(paper),
        ]
        if counted:
            value.append({n: [asset_fingerprint(project.dataset(n)), presence(project, n)] for n in sorted(counted)})
    else:
        value = paper.model_dump(mode="json", exclude={"claims", "measurements", "runs", "seeds"})
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]


def asset_fingerprint(entry: DatasetEntry | ModelEntry) -> str:
    """Return a hash of what a registry's entry says of its content: sources, pins and size, not titles and stand-ins."""
    value = entry.model_dump(mode="json", include={"sources", "build", "splits", "files", "architecture", "config"})
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def _method_versions(paper: Paper) -> dict[str, int]:
    from replica.methods import registry

    found = {}
    for item in paper.measurements.values():
        for reference in item.methods:
            entry, _ = registry.parse(reference)
            found[entry.name] = entry.version
    return found
