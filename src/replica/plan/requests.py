"""What the claims of a paper ask for: runs with seeds; and whether everything they name is there. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from replica.claims.cells import cells
from replica.claims.expressions import names, split_run
from replica.config.project import Project
from replica.config.schema import Claim, Paper, RunEntry
from replica.config.settings import Scale
from replica.errors import ConfigError, nearest
from replica.meters.registry import check_splits, meters_of
from replica.methods import registry
from replica.tasks import kinds

Entries = Mapping[str, RunEntry]


def requested_runs(project: Project, paper: Paper, section: str, entries: Entries, scale: Scale) -> dict[str, int]:
    """Return the names of the runs of a section that the paper's claims read, with the number of seeds each needs.

    Where claims were asked for by name, only what their verdicts need: not the arms that a trend shows beside its effect.
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
    """Check every name in every claim of a paper before anything runs; `entries` are its runs by section.

    Raises ConfigError naming the claim and the nearest name for an unknown run, measurement, task or metric, and for a metric of
    a task that the run is not scored on or a measure of a run that is not measured.
    """
    where = f"config/papers/{paper.id}/paper.yaml: claims."
    for claim in paper.claims:
        try:
            for name in _names(_ours(claim)):
                _check(project, paper, name, entries["paper"])
            for name in _names(_trend(claim)):
                _check(project, paper, name, entries["laptop"])
        except ConfigError as error:
            raise ConfigError(f"{where}{claim.id}: {error}") from None
    try:
        for name in _names(_arms(paper)):
            _check(project, paper, name, entries["laptop"])
    except ConfigError as error:
        raise ConfigError(f"config/papers/{paper.id}/paper.yaml: tables: {error}") from None
    known = {claim.id for claim in paper.claims}
    for table in paper.tables:
        for name in table.claims:
            if name not in known:
                where = f"config/papers/{paper.id}/paper.yaml: tables.{table.id}"
                raise ConfigError(f"{where}: unknown claim '{name}'{nearest(name, known)}")
    for name, measurement in paper.measurements.items():
        where = f"config/papers/{paper.id}/paper.yaml: measurements.{name}"
        options = meters_of(measurement, f"{where}.meters")
        try:
            if measurement.datasets:
                check_splits(project, measurement.datasets, options["rows"])
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None
        if measurement.model is not None and measurement.model not in project.models:
            raise ConfigError(
                f"{where}: unknown model '{measurement.model}'{nearest(measurement.model, project.models)}"
            )
        for reference in measurement.methods:
            try:
                registry.parse(reference)
            except ConfigError as error:
                raise ConfigError(f"{where}: {error}") from None


def check_chosen(project: Project) -> None:
    """Raise ConfigError where a claim that was asked for by name (`--config claims=`) is of no enabled paper."""
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


def _check(project: Project, paper: Paper, name: str, entries: Entries) -> None:
    if not name.startswith("runs."):
        if not any(name.startswith(f"{measurement}.") for measurement in paper.measurements):
            known = nearest(name.partition(".")[0], paper.measurements)
            raise ConfigError(
                f"'{name}' names no measurement of the paper and no run (runs.<run>.<task>.<metric>){known}"
            )
        return
    run, rest = split_run(name, entries)
    entry = entries[run]
    if rest.startswith("measures."):
        if not entry.measure.latency:
            raise ConfigError(f"'{name}': run '{run}' is not measured; give it `measure: {{latency: true}}`")
        return
    if rest.startswith("counts."):
        return
    if rest.startswith("reported."):
        used = [item["name"] if isinstance(item, dict) else item for item in entry.methods]
        if not any(rest.startswith(f"reported.{method}.") for method in used):
            raise ConfigError(f"'{name}': run '{run}' has no such method, only {', '.join(used) or 'none'}")
        return
    fitting = [task for task in project.tasks if rest.startswith(f"{task}.")]
    if not fitting:
        raise ConfigError(f"'{name}' names no task{nearest(rest.partition('.')[0], project.tasks)}")
    task = max(fitting, key=len)
    scored = entry.evaluate if entry.evaluate is not None else [entry.task, *entry.together]
    scored = [] if entry.evaluate is None and not kinds.of(project.tasks[task]).scored else scored
    if task not in scored:
        raise ConfigError(
            f"'{name}': run '{run}' is not scored on task '{task}', only on {', '.join(map(str, scored)) or 'none'}"
        )
    metric, metrics = rest[len(task) + 1 :], [item.name for item in project.tasks[task].metrics]
    if metric not in metrics:
        raise ConfigError(f"'{name}': task '{task}' has no metric '{metric}'{nearest(metric, metrics)}")
