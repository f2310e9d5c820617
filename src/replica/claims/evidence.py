"""Stored measurements of one paper at one scale, looked up by the names that expressions use."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from replica.claims.expressions import Expression, UnknownName, parse, split_run
from replica.claims.run_files import read_file, read_lines
from replica.config.expand import expand_section, task_at
from replica.config.project import Project
from replica.config.schema import Paper
from replica.errors import ConfigError, ResultError, nearest
from replica.seals import SEAL, read_sealed

#: Measures that differ from seed to seed; every other one counts something that all seeds share.
_TIMED = ("latency",)
#: Numbers of a run other than its scores: their file, and the noun for one of them.
FILES = {
    "measures": ("measures.json", "measure"),
    "reported": ("metrics.json", "reported number"),
    "counts": ("manifest.json", "count"),
}


class Missing(Exception):
    """A stored measurement is not there; the message tells how to make it."""


@dataclass(frozen=True)
class Outcome:
    """The values of an expression: one per seed, or a single one where no number in it depends on a seed."""

    values: tuple[float, ...]
    seeds: tuple[int, ...] = ()
    runs: tuple[str, ...] = ()
    interval: tuple[float, float] | None = None


def flat(tree: Any, prefix: str = "") -> dict[str, float | None]:
    """Return nested mappings of numbers as dotted names; None stays None, text is left out."""
    if isinstance(tree, Mapping):
        numbers: dict[str, float | None] = {}
        for key, inner in tree.items():
            numbers.update(flat(inner, f"{prefix}.{key}" if prefix else str(key)))
        return numbers
    if isinstance(tree, list):
        return flat({str(index): inner for index, inner in enumerate(tree)}, prefix)
    if tree is None or (isinstance(tree, int | float) and not isinstance(tree, bool)):
        return {prefix: tree}
    return {}


class Evidence:
    """The measurements below a results folder that belong to one paper and scale.

    `run_ids` gives run ids by section and name. Files are cached in one object alone, so a deleted file is missing for the next.
    """

    def __init__(
        self, project: Project, paper: Paper, scale: str, results: Path, run_ids: Mapping[str, Mapping[str, str]]
    ):
        self.project, self.paper, self.scale = project, paper, scale
        self.results, self.run_ids = Path(results), run_ids
        self.structural_file = self.results / "structural" / f"{paper.id}.json"
        self._stored = cache(read_file)
        self._measured = cache(self._read_structural)
        self._entries = cache(lambda section: expand_section(paper, section))
        self._read_lines = cache(read_lines)

    def structural(self) -> dict[str, float | None] | None:
        """Return the paper's structural measurements by dotted name; None where the file is missing."""
        stored = self._measured()
        return None if stored is None else flat(stored)

    def unavailable(self, measurement: str) -> str | None:
        """Return why a measurement could not be made where it was tried (its data set is not here); None where it was."""
        stored = self._measured() or {}
        return stored.get(measurement, {}).get("unavailable")

    def _read_structural(self) -> dict[str, Any] | None:
        if not self.structural_file.is_file():
            return None
        again = f"`snakemake --forcerun structural -- {self._shown(self.structural_file)}` makes it again"
        stored = read_sealed(self.structural_file, ["measurements"], again)
        if stored.get("paper") != self.paper.id:
            raise ResultError(
                f"{self.structural_file}: is of paper {stored.get('paper')}, not of {self.paper.id}; {again}"
            )
        if stored[SEAL].get("settings") != measurement_settings(self.project, self.paper):
            raise ResultError(
                f"{self.structural_file}: was measured for other `measurements` than {self.paper.file} has now; {again}"
            )
        return stored["measurements"]

    def run_of(self, name: str, section: str) -> tuple[str, str, str]:
        """Return run name, run id and the rest of a `runs.` name.

        Raises UnknownName with the nearest run where the paper has none of that name, `Missing` where the scale has not.
        """
        run, rest = split_run(name, self._entries(section))
        if section not in self.project.scale(self.scale).sections:
            call = f"snakemake --config scale={section} papers={self.paper.id}"
            raise Missing(f"needs the {section} scale: `{call}`")
        if run not in self.run_ids.get(section, {}):
            raise Missing(
                f"the plan of the {self.scale} scale has no run '{run}'; compare again with the present configuration"
            )
        return run, self.run_ids[section][run], rest

    def section_of(self, name: str) -> str:
        """Return the section whose run a `runs.` name means: of two with the same name that of the scale."""
        fitting = [s for s in ("laptop", "paper") if any(name.startswith(f"runs.{run}.") for run in self._entries(s))]
        here = [section for section in fitting if section in self.project.scale(self.scale).sections]
        return (here or fitting or ["laptop"])[0]

    def runs(self, expression: str, section: str) -> list[str]:
        """Return the ids of the runs that an expression reads, in the order of their names."""
        used = sorted(name for name in parse(expression).names if name.startswith("runs."))
        return list(dict.fromkeys(self.run_of(name, section)[1] for name in used))

    def look(self, expression: str, section: str, seeds: int) -> Outcome:
        """Evaluate an expression for each of `seeds` seeds.

        Raises `Missing` where a measurement is not stored (yet), ConfigError where the expression names an unknown number.
        """
        parsed = parse(expression)
        run_names = sorted(name for name in parsed.names if name.startswith("runs."))
        known = self._structural_values(parsed.names - set(run_names))
        if not run_names:
            return Outcome((parsed.value(known),))
        runs = {name: self.run_of(name, section) for name in run_names}
        single = {name for name, (run, _, _) in runs.items() if self._entries(section)[run].seeds == "one"}
        shared = single | {name for name, (_, _, rest) in runs.items() if shared_measure(rest)}
        numbers = (0,) if shared == set(run_names) else tuple(range(seeds))
        values, interval = [], None
        for seed in numbers:
            measured = {name: self._run_value(*runs[name][1:], 0 if name in shared else seed) for name in run_names}
            values.append(parsed.value({**known, **{name: value for name, (value, _) in measured.items()}}))
            if len(numbers) == 1 and _is_name(parsed):
                interval = measured[run_names[0]][1]
        return Outcome(tuple(values), numbers, tuple(self.runs(expression, section)), interval)

    def lines(self, name: str, section: str, seed: int = 0) -> tuple[str, list[dict[str, Any]]]:
        """Return the key of a `history.<run>.<key>` name, and the lines of the run's history; `Missing` where there is none."""
        _, run_id, key = self.run_of(f"runs.{name.removeprefix('history.')}", section)
        return key, self._lines(run_id, seed)

    def names(self, pattern: str, section: str) -> list[str]:
        """Return the names that are stored where a name with `{}` parts points: of a history, of a run's reported numbers, or structural.

        `Missing` where no such name is stored.
        """
        space, _, rest = pattern.partition(".")
        if space not in ("runs", "history"):
            if (stored := self.structural()) is None:
                raise Missing(
                    f"not measured: {self._shown(self.structural_file)} is missing (`snakemake structural` makes it)"
                )
            return list(stored)
        run, run_id, key = self.run_of(f"runs.{rest}", section)
        if space == "history":
            lines = self._lines(run_id, 0)
            return [f"history.{run}.{key}" for key in sorted({key for line in lines for key in line})]
        kind = key.partition(".")[0]
        if kind not in FILES:
            raise UnknownName(f"'{pattern}': only {', '.join(FILES)} of a run have parts to go through")
        path = self._folder(run_id, 0) / FILES[kind][0]
        if (stored := self._stored(path, kind)) is None:
            raise Missing(f"not measured: {self._shown(path)} is missing")
        return [f"runs.{run}.{kind}.{key}" for key in flat(stored)]

    def scored_on(self, name: str, section: str) -> str | None:
        """Return metric, data set and split of a `runs.<run>.<task>.<metric>` name at this scale; None for other numbers of a run."""
        _, _, rest = self.run_of(name, section)
        if rest.partition(".")[0] in FILES:
            return None
        task, metric = self._task_and_metric(rest)
        entry = self.project.task(task)
        known = [item.name for item in entry.metrics]
        split = "report" if entry.splits.report else "select"
        return f"{metric if metric in known else known[0]} on {entry.dataset}, {split} split"

    def _structural_values(self, names: Iterable[str]) -> dict[str, float]:
        names = sorted(names)
        if not names:
            return {}
        for name in names:
            if not any(name.startswith(f"{measurement}.") for measurement in self.paper.measurements):
                hint = nearest(name.split(".")[0], self.paper.measurements)
                raise UnknownName(f"'{name}' is no measurement of the paper{hint}")
        stored = self.structural()
        if stored is None:
            raise Missing(
                f"not measured: {self._shown(self.structural_file)} is missing (`snakemake structural` makes it)"
            )
        for name in names:
            measurement = max((m for m in self.paper.measurements if name.startswith(f"{m}.")), key=len)
            if reason := self.unavailable(measurement):
                raise Missing(f"not measured: {reason}")
            if not any(other.startswith(f"{measurement}.") for other in stored):
                raise Missing(f"not measured: {self._shown(self.structural_file)} holds no '{measurement}'")
            if name in stored and stored[name] is None:
                raise Missing(f"the meter gave no number for {name}")
            if name not in stored:
                raise UnknownName(f"unknown name '{name}'{nearest(name, stored)}")
        return {name: float(stored[name]) for name in names}  # type: ignore[arg-type]

    def _folder(self, run_id: str, seed: int) -> Path:
        return self.results / self.scale / "runs" / run_id / f"seed{seed}"

    def _shown(self, path: Path) -> Path:
        """Return a path as a checkout has it, below results/, wherever the folder of results lies."""
        return Path("results") / path.relative_to(self.results)

    def _lines(self, run_id: str, seed: int) -> list[dict[str, Any]]:
        path = self._folder(run_id, seed) / "history.jsonl"
        if (lines := self._read_lines(path)) is None:
            raise Missing(f"not measured: {self._shown(path)} is missing")
        return lines

    def _run_value(self, run_id: str, rest: str, seed: int) -> tuple[float, tuple[float, float] | None]:
        if rest.partition(".")[0] in FILES:
            return self._number(run_id, FILES[rest.partition(".")[0]][0], rest, seed), None
        path = self._folder(run_id, seed) / "metrics.json"
        scored = self._stored(path, "tasks")
        if scored is None:
            raise Missing(f"not measured: {self._shown(path)} is missing")
        task, metric = self._task_and_metric(rest)
        if task not in scored:
            raise UnknownName(f"run {run_id} is not scored on task '{task}'{nearest(task, scored)}")
        if metric not in scored[task]:
            if self.scale != "smoke":
                raise UnknownName(
                    f"run {run_id}: task '{task}' has no metric '{metric}'{nearest(metric, scored[task])}"
                )
            metric = next(iter(scored[task]))  # a substitute task may be scored by another metric
        entry = scored[task][metric]
        if entry["value"] is None:
            raise Missing(entry.get("reason") or f"{self._shown(path)} holds no value for {task}.{metric}")
        low, high = entry.get("low"), entry.get("high")
        return float(entry["value"]), None if low is None or high is None else (float(low), float(high))

    def _task_and_metric(self, rest: str) -> tuple[str, str]:
        fitting = [task for task in self.project.tasks if rest.startswith(f"{task}.")]
        if not fitting:
            task = rest.split(".")[0]
            raise UnknownName(f"'{rest}' names no task: expected <task>.<metric>{nearest(task, self.project.tasks)}")
        task = max(fitting, key=len)
        return task_at(self.project, task, self.project.scale(self.scale)).name, rest[len(task) + 1 :]

    def _number(self, run_id: str, file: str, rest: str, seed: int) -> float:
        """Return a number below the first part of `rest` (of `FILES`) in a run's file."""
        path = self._folder(run_id, seed) / file
        kind, _, key = rest.partition(".")
        stored = self._stored(path, kind)
        if stored is None:
            raise Missing(f"not measured: {self._shown(path)} is missing")
        numbers = flat(stored)
        if key not in numbers:
            raise UnknownName(f"run {run_id} has no {FILES[kind][1]} '{key}'{nearest(key, numbers)}")
        if numbers[key] is None:
            raise Missing(f"{self._shown(path)} holds no value for {key}")
        return float(numbers[key])  # type: ignore[arg-type]


def measurement_settings(project: Project, paper: Paper) -> dict[str, Any]:
    """Return what decides a paper's structural measurements beside the code: hashes of their definitions and of their models' sizes."""
    items = paper.measurements
    models = sorted({item.model for item in items.values() if item.model is not None})
    parts = {
        "measurements": {name: item.model_dump(mode="json", exclude_defaults=True) for name, item in items.items()},
        "models": {
            name: project.model(name).model_dump(mode="json", include={"architecture", "config"}) for name in models
        },
    }
    return {
        name: hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest()[:12] for name, part in parts.items()
    }


def where(paper: Paper, claim: str, error: ConfigError) -> ConfigError:
    """Return the error with its file and claim in front."""
    return ConfigError(f"{paper.file}: claims.{claim}: {error}")


def shared_measure(rest: str) -> bool:
    """Return whether a run's number (the part after its name) counts something that all seeds share."""
    if rest.startswith("counts."):
        return True
    return rest.startswith("measures.") and not rest.removeprefix("measures.").startswith(_TIMED)


def _is_name(parsed: Expression) -> bool:
    return len(parsed.names) == 1 and type(parsed.tree).__name__ == "Name"
