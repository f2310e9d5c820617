"""A page per run: configuration, parents, seeds with scores and curves, hardware, versions, hashes, how to make it again."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from replica.paths import Layout
from replica.plan import Run
from replica.report.sheets import Sheet
from replica.report.site.pages import OF_SCALE, Pages, Source, text
from replica.report.site.papers import Used, claim_link
from replica.report.site.stored_runs import StoredRun, facts_of

#: Keys of a history that count and are drawn as no curve.
_COUNTS = ("step", "epoch")
#: Curves of one page at most; the CSV file holds all.
_MOST_CURVES = 8
_WIDTH, _HEIGHT = 320, 120


@dataclass(frozen=True)
class Curve:
    """A key of the history over steps: one line of SVG points per seed, and the range it was scaled to."""

    name: str
    lines: list[tuple[int, str]]
    first: float
    last: float
    low: float
    high: float


def write(pages: Pages, source: Source, used: Used) -> None:
    """Write every run's page with its history as CSV, and the list of all runs."""
    listed = []
    children: dict[str, list[str]] = {}
    for other in source.plan.runs.values():
        for parent in dict.fromkeys(other.parents.values()):
            children.setdefault(parent, []).append(other.id)
    for name, stored in source.runs.items():
        planned = source.plan.runs.get(name)
        spec = source.spec(name)
        mentions = [(paper, row, claim_link(paper, row)) for paper, row in used.get(name, [])]
        sheet, curves = _history(stored)
        if sheet is not None:
            path = pages.folder / "runs" / f"{name}.csv"
            path.parent.mkdir(exist_ok=True)
            path.write_text(sheet.to_csv(), encoding="utf-8")
        subject = _subject(source, spec)
        pages.write(
            f"runs/{name}.html",
            "run.html.j2",
            run=name,
            stored=stored,
            evidence=OF_SCALE[source.scale],
            names=source.names.get(name, []),
            reported=set(source.project.papers),
            mentions=mentions,
            spec=spec,
            subject=subject,
            parents=_parents(source, stored, planned),
            children=children.get(name, []),
            known=set(source.runs),
            facts=_facts(stored),
            curves=curves,
            history=sheet is not None,
            commands=_commands(source.scale, name, planned, stored),
            size=(_WIDTH, _HEIGHT),
        )
        state = "pinned" if stored.pinned else "stored" if stored.seeds else "not run"
        listed.append(
            {"run": name, "state": state, "seeds": len(stored.seeds), "called": source.names.get(name, []), **subject}
        )
    pages.write("runs/index.html", "runs.html.j2", runs=listed, evidence=OF_SCALE[source.scale])


def _subject(source: Source, spec: dict[str, Any]) -> dict[str, Any]:
    """Return stage, backbone, task, data set and methods of a specification."""
    task = (spec.get("task") or [None])[0]
    entry = source.project.tasks.get(task) if task else None
    dataset = source.project.datasets.get(entry.dataset) if entry else None
    return {
        "stage": spec.get("stage"),
        "backbone": spec.get("root"),
        "task": task,
        "dataset": dataset and {"name": entry.dataset, "title": dataset.title, "licence": dataset.licence},
        "methods": [item["name"] for item in spec.get("methods", [])],
    }


def _parents(source: Source, stored: StoredRun, planned: Run | None) -> dict[str, str]:
    parents = {role: parent["run"] for role, parent in (stored.first.get("parents") or {}).items()}
    return parents or (dict(planned.parents) if planned else {})


def _facts(stored: StoredRun) -> dict[str, Any]:
    """Gather versions, hardware and code over the seeds' manifests."""
    lines: dict[str, Counter[str]] = {"versions": Counter(), "hardware": Counter(), "code": Counter()}
    manifests = [seed.manifest for seed in stored.seeds if seed.manifest]
    for manifest in manifests:
        for key, line in facts_of(manifest):
            lines[key][line] += 1
    return {
        "manifests": len(manifests),
        **{
            key: [line if count == len(manifests) else f"{line} ({count} of {len(manifests)} seeds)" for line, count in counts.items()]
            for key, counts in lines.items()
        },
    }  # fmt: skip


def _history(stored: StoredRun) -> tuple[Sheet | None, list[Curve]]:
    """Return the history of all seeds as a sheet (None where there is none) and its curves over steps."""
    histories = {seed.seed: seed.history for seed in stored.seeds if seed.history}
    keys = list(dict.fromkeys(key for lines in histories.values() for line in lines for key in line))
    if not keys:
        return None, []
    rows = [[str(seed), *(_cell(line.get(key)) for key in keys)] for seed, lines in histories.items() for line in lines]
    curves = [curve for key in keys if key not in _COUNTS if (curve := _curve(key, histories)) is not None]
    return Sheet("history", ["seed", *keys], rows), curves[:_MOST_CURVES]


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else text(value)


def _curve(key: str, histories: dict[int, list[dict[str, Any]]]) -> Curve | None:
    """Scale one key of the seeds' histories to the drawing's width and height; None below two points or without a step."""
    series = {}
    for seed, lines in histories.items():
        points = [(line["step"], line[key]) for line in lines if _number(line.get("step")) and _number(line.get(key))]
        if len(points) > 1:
            series[seed] = points
    if not series:
        return None
    steps = [step for points in series.values() for step, _ in points]
    values = [value for points in series.values() for _, value in points]
    first, last, low, high = min(steps), max(steps), min(values), max(values)

    def place(step: float, value: float) -> str:
        across = (step - first) / (last - first) if last > first else 0.5
        up = (value - low) / (high - low) if high > low else 0.5
        return f"{across * _WIDTH:.1f},{(1 - up) * _HEIGHT:.1f}"

    lines = [(seed, " ".join(place(*point) for point in points)) for seed, points in series.items()]
    return Curve(key, lines, first, last, low, high)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _commands(scale: str, run: str, planned: Run | None, stored: StoredRun) -> list[str]:
    """Return the commands that make the run again with all it needs, a seed each; none for a run that is not in the plan."""
    if planned is None:
        return []
    seeds = sorted(planned.seeds) or [seed.seed for seed in stored.seeds] or [0]
    file = "metrics.json" if planned.evaluate else "manifest.json"
    papers = f" papers={','.join(sorted(planned.papers))}" if planned.papers else ""
    return [
        f"snakemake {Layout().run(scale, run, seed) / file} --config scale={scale}{papers} quick=false"
        for seed in seeds
    ]
