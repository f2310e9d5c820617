"""The files of a plan: inputs and outputs of each rule, and the fingerprints whose change makes outputs again. Imports no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from replica.assets.at_hand import presence
from replica.config.asset_schema import DatasetEntry, ModelEntry
from replica.config.project import Project
from replica.config.schema import Paper
from replica.methods import registry
from replica.paths import MANIFEST, MEASURES, METRICS, Layout
from replica.plan.plan import Plan

#: Snakemake runs in the root of the checkout.
HERE = Layout()


def run_file(plan: Plan, run_id: str, seed: int, name: str = MANIFEST) -> str:
    """Return a file of one seed of a run, by default its manifest, on which children wait."""
    return str(HERE.run(plan.scale, run_id, seed) / name)


def prepared_files(names: Iterable[str]) -> list[str]:
    """Return the manifests of tokenized data."""
    return [str(HERE.prepared(name) / MANIFEST) for name in names]


def run_inputs(plan: Plan, run_id: str, seed: int) -> dict[str, str | list[str]]:
    """Return the inputs of one seed of a run by role: parents, candidates, tokenized data, models."""
    run = plan.run(run_id)
    spec = run.spec
    inputs: dict[str, str | list[str]] = {
        role: run_file(plan, parent, plan.parent_seed(parent, seed)) for role, parent in run.parents.items()
    }
    inputs["candidates"] = [run_file(plan, name, 0) for name in run.candidates]
    [inputs["data"]] = prepared_files([run.data])
    inputs["beside"] = prepared_files([spec.beside.data] if spec.beside else [])
    inputs["together"] = prepared_files(task.data for task in spec.together)
    inputs["models"] = [str(HERE.model(name) / MANIFEST) for name in run.models]
    return {role: files for role, files in inputs.items() if files}


def evaluation_inputs(plan: Plan, run_id: str, seed: int) -> dict[str, str | list[str]]:
    """Return a finished run's manifest and the tokenized data of every task that it is scored on."""
    data = prepared_files(sorted(plan.run(run_id).evaluate.values()))
    return {"run": run_file(plan, run_id, seed), "data": data}


def prepare_inputs(plan: Plan, name: str) -> dict[str, str]:
    """Return data set and tokenizer of tokenized data."""
    prepared = plan.prepared[name]
    return {
        "dataset": str(HERE.dataset(prepared.dataset) / MANIFEST),
        "tokenizer": str(HERE.model(prepared.tokenizer) / MANIFEST),
    }


def asset_files(plan: Plan) -> list[str]:
    """Return the manifests of all data sets and models that the plan's runs read."""
    prepared = plan.prepared.values()
    models = {item.tokenizer for item in prepared} | {name for run in plan.runs.values() for name in run.models}
    folders = [HERE.dataset(name) for name in sorted({item.dataset for item in prepared})]
    folders += [HERE.model(name) for name in sorted(models)]
    return [str(folder / MANIFEST) for folder in folders]


def evaluated_runs(plan: Plan, paper: str | None = None) -> list[tuple[str, int]]:
    """Return (run, seed) of all metrics that the claims of a paper (or of all) read."""
    wanted = {run_id for name, runs in plan.wanted.items() if paper in (None, name) for run_id in runs}
    return sorted((run_id, seed) for run_id in wanted if plan.runs[run_id].evaluate for seed in plan.runs[run_id].seeds)


def measured_runs(plan: Plan, paper: str | None = None) -> list[tuple[str, int]]:
    """Return (run, first seed) of the runs that a paper's claims (or all) read and whose cost is measured."""
    wanted = {run_id for name, runs in plan.wanted.items() if paper in (None, name) for run_id in runs}
    return sorted((run_id, 0) for run_id in wanted if plan.runs[run_id].measure)


def metrics_files(plan: Plan, paper: str | None = None) -> list[str]:
    """Return the metrics that the claims of a paper (or of all) read."""
    return [run_file(plan, run, seed, METRICS) for run, seed in evaluated_runs(plan, paper)]


def paper_inputs(plan: Plan, paper: str) -> list[str]:
    """Return the files that the paper's claims are computed from at the plan's scale."""
    measures = [run_file(plan, run, seed, MEASURES) for run, seed in measured_runs(plan, paper)]
    return [str(HERE.structural(paper)), *metrics_files(plan, paper), *measures]


def claimed_papers(project: Project) -> list[str]:
    """Return the enabled papers with a claim that `--config claims=` names."""
    wanted = set(project.settings.claims or [])
    return [name for name, paper in project.papers.items() if any(claim.id in wanted for claim in paper.claims)]


def fingerprint(paper: Paper, part: str, project: Project | None = None) -> str:
    """Return a hash of the part of a paper's file that a rule depends on: `claims`, `measurements` or `layout`.

    The hash of measurements that count a data set's rows covers whether its files are here. With a project the hash of the claims
    covers the settings that decide verdicts: default tolerances and confidence level.
    """
    if part == "claims":
        value: Any = [claim.model_dump(mode="json", exclude_defaults=True) for claim in paper.claims]
        arms = {table.id: table.arms for table in paper.tables if table.arms}
        value = [value, arms] if arms else value
        if project is not None:
            value = [value, project.settings.model_dump(mode="json", include={"tolerances", "confidence_level"})]
    elif part == "measurements":
        items = paper.measurements
        models = sorted({item.model for item in items.values() if item.model is not None})
        counted = sorted({name for item in items.values() for name in item.datasets})
        methods = [registry.parse(reference)[0] for item in items.values() for reference in item.methods]
        value = [
            {name: item.model_dump(mode="json", exclude_defaults=True) for name, item in items.items()},
            {name: project.model(name).model_dump(mode="json", include={"architecture", "config"}) for name in models},
            {method.name: method.version for method in methods},
        ]
        if counted:
            value.append({n: [asset_fingerprint(project.dataset(n)), presence(project, n)] for n in counted})
    else:
        value = paper.model_dump(mode="json", exclude={"claims", "measurements", "runs", "seeds"})
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]


def asset_fingerprint(entry: DatasetEntry | ModelEntry) -> str:
    """Return a hash of the keys of a registry's entry that decide its content: sources, pins and size, not titles and stand-ins."""
    value = entry.model_dump(mode="json", include={"sources", "build", "splits", "files", "architecture", "config"})
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]
