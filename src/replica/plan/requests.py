"""What the claims of a paper ask for: runs with seeds; and whether everything they name is there. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from replica.claims.cells import cells
from replica.claims.expressions import names, split_run
from replica.claims.name_checks import COUNTS, HISTORY, MEASURES, ONNX_MEASURES, Names, check_names
from replica.config.project import Project
from replica.config.references import known
from replica.config.schema import Claim, Paper, RunEntry
from replica.config.settings import Scale
from replica.errors import ConfigError, nearest
from replica.meters.registry import meters_of, result_names
from replica.methods import registry
from replica.models.heads import FURTHER_HEADS, HEADS
from replica.tasks import kinds

Entries = Mapping[str, RunEntry]


def requested_runs(project: Project, paper: Paper, section: str, entries: Entries, scale: Scale) -> dict[str, int]:
    """Return the names of the runs of a section that the paper's claims read, with the number of seeds each needs.

    With `--config claims=`, only the runs that their verdicts need: not the arms that a trend shows in addition to its effect.
    """
    requests: dict[str, int] = {}
    settings = project.settings
    for claim in paper.claims:
        if settings.claims is not None and claim.id not in settings.claims:
            continue
        if section == "laptop" and claim.trend is not None:
            if scale.name == "laptop" and settings.claims is None and settings.quick and not claim.trend.quick:
                continue
            expressions = _trend(claim) if settings.claims is None else [claim.trend.effect]
            seeds = claim.trend.seeds if scale.name == "laptop" else scale.seeds
        elif section == "paper" and claim.evidence == "full":
            expressions = _ours(claim)
            seeds = paper.seeds.get("paper", scale.seeds) if scale.name == "paper" else scale.seeds
        else:
            continue
        for name in _names(expressions):
            if name.startswith("runs."):
                run, _ = split_run(name, entries)
                requests[run] = max(requests.get(run, 0), seeds)
    if section == "laptop" and settings.claims is None and (scale.name != "laptop" or not settings.quick):
        seeds = paper.seeds.get("laptop", scale.seeds) if scale.name == "laptop" else scale.seeds
        for name in _names(_arms(paper)):
            if name.startswith("runs."):
                run, _ = split_run(name, entries)
                requests[run] = max(requests.get(run, 0), seeds)
    return requests


def check_claims(project: Project, paper: Paper, entries: Mapping[str, Entries]) -> None:
    """Check every name in the paper's claims, tables and figures before anything runs; `entries` are its runs by section.

    Raises ConfigError with file, key and the nearest name.
    """
    for claim in paper.claims:
        tolerances = (
            project.settings.tolerances
        )  # another kind is judged by its last digit, a slip of the pen should not be
        if claim.kind not in tolerances and (hint := nearest(claim.kind, tolerances, listed=False)):
            raise ConfigError(f"{paper.file}: claims.{claim.id}.kind: unknown kind '{claim.kind}'{hint}")
    measurements = {}
    for name, measurement in paper.measurements.items():
        where = f"{paper.file}: measurements.{name}"
        known(measurement.model, project.models, where, "model")
        known(measurement.head, {**HEADS, **FURTHER_HEADS}, f"{where}.head", "head")
        meters = meters_of(measurement, f"{where}.meters")
        try:
            methods = [registry.parse(reference)[0] for reference in measurement.methods]
            keys = {entry.name: {"<field>": entry.config.model_fields, "<cost>": entry.costs} for entry in methods}
            measurements[name] = result_names(project, measurement.datasets, meters, keys)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None
    runs: dict[str, dict[str, dict[str, list[str]]]] = {}
    for section, own in entries.items():
        runs[section] = {}
        for name, entry in own.items():
            try:
                runs[section][name] = _numbers(project, entry)
            except ConfigError as error:
                raise ConfigError(f"{paper.file}: runs.{section}.{name}: {error}") from None
    check_names(paper, Names(measurements, runs, project.tasks))


def _numbers(project: Project, entry: RunEntry) -> dict[str, list[str]]:
    """Return the keys of a run's numbers by their first part, as `replica.claims.name_checks.Names` has them."""
    methods = [registry.entry(item if isinstance(item, str) else item.get("name")) for item in entry.methods]
    scored = entry.evaluate
    if scored is None:
        scored = [name for name in (entry.task, *entry.together) if name in project.tasks]
        scored = [name for name in scored if kinds.of(project.tasks[name]).scored]
    numbers = {
        name: [metric.name for metric in project.tasks[name].metrics] for name in scored if name in project.tasks
    }
    recorded = [key for method in methods for key in method.recorded]
    numbers |= {"counts": list(COUNTS), "history": [*HISTORY, *recorded]}
    if reported := [f"{method.name}.{key}" for method in methods for key in method.reported]:
        numbers["reported"] = reported
    if entry.measure.latency:
        numbers["measures"] = [*MEASURES, *(ONNX_MEASURES if entry.measure.runtime == "onnxruntime" else ())]
    return numbers


def check_chosen(project: Project) -> None:
    """Raise ConfigError where a claim that `--config claims=` names is of no enabled paper."""
    known = {claim.id for name in project.papers for claim in project.paper(name).claims}
    for name in project.settings.claims or []:
        if name not in known:
            raise ConfigError(f"claims: no enabled paper has a claim '{name}'{nearest(name, known)}")


def _ours(claim: Claim) -> list[str]:
    """Return every expression behind a claim's `ours`, templates filled with the keys of its cells."""
    return [cell.ours for cell in cells(claim) if cell.ours is not None]


def _trend(claim: Claim) -> list[str]:
    return [] if claim.trend is None else [claim.trend.effect, *claim.trend.shows.values()]


def _arms(paper: Paper) -> list[str]:
    """Return every expression in the paper's tables of laptop runs."""
    return [expression for table in paper.tables for row in table.arms.values() for expression in row.values()]


def _names(expressions: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(name for expression in expressions for name in sorted(names(expression))))
