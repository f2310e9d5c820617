"""Expands a paper's run entries: multiplies out matrices, merges bases, applies the stand-ins and caps of the scale."""

from __future__ import annotations

import itertools
import math
from typing import Any, get_args

from replica.config.patterns import fill, matrix_names
from replica.config.project import Project
from replica.config.schema import Paper, RunEntry, Stage
from replica.config.settings import Scale
from replica.config.task_schema import Task
from replica.config.validation import validate
from replica.errors import ConfigError, nearest

#: The sections of a paper's `runs`.
SECTIONS = ("laptop", "paper")
#: Most runs that one entry makes with its matrix, and that follow each other by `base`, `from`, `teacher` and `targets`.
MOST_RUNS, MOST_IN_A_CHAIN = 10_000, 100


def expand_section(paper: Paper, section: str) -> dict[str, RunEntry]:
    """Return every run of a section by its final name, with `matrix` and `base` resolved."""
    raw = {
        name: entry.model_dump(by_alias=True, exclude_unset=True) for name, entry in paper.runs.get(section, {}).items()
    }
    where = f"{paper.file}: runs.{section}"
    runs: dict[str, RunEntry] = {}
    for name in raw:
        merged = _merge_base(raw, name, where, ())
        matrix = merged.pop("matrix", {})
        if math.prod(map(len, matrix.values())) > MOST_RUNS:
            raise ConfigError(f"{where}.{name}: matrix: makes more than {MOST_RUNS} runs")
        for values in itertools.product(*matrix.values()):
            chosen = _words(matrix, values, f"{where}.{name}")
            final = fill(name, chosen)
            if final in runs:
                raise ConfigError(f"{where}.{name}: two runs are named '{final}'; put every matrix key into the name")
            runs[final] = validate(RunEntry, fill(merged, chosen), f"{where}.{final}")
            if runs[final].stage is None:
                raise ConfigError(f"{where}.{final}: a run needs a `stage`: {', '.join(get_args(Stage))}")
    return runs


def _words(matrix: dict[str, list[Any]], values: tuple[Any, ...], where: str) -> dict[str, Any]:
    """Return one run's word for every name of a matrix; raises ConfigError where a key of several names has not as many values."""
    words: dict[str, Any] = {}
    for key, value in zip(matrix, values, strict=True):
        names = matrix_names(key)
        each = [value] if len(names) == 1 else value
        if not isinstance(each, list) or len(each) != len(names):
            raise ConfigError(f"{where}: matrix: '{key}' needs lists of {len(names)} values, not {value!r}")
        words |= dict(zip(names, each, strict=True))
    return words


def _merge_base(raw: dict[str, dict], name: str, where: str, seen: tuple[str, ...]) -> dict[str, Any]:
    entry = dict(raw[name])
    base = entry.pop("base", None)
    if base is None:
        return entry
    if base not in raw:
        raise ConfigError(f"{where}.{name}: base: unknown run '{base}'{nearest(base, raw)}")
    if base in seen:
        raise ConfigError(f"{where}.{name}: base: '{base}' is based on itself")
    if len(seen) >= MOST_IN_A_CHAIN:
        raise ConfigError(f"{where}.{name}: base: more than {MOST_IN_A_CHAIN} runs are based on each other")
    inherited = _merge_base(raw, base, where, (*seen, name))
    for key, value in entry.items():
        if key in ("train", "measure"):
            inherited[key] = {**inherited.get(key, {}), **value}
        else:
            inherited[key] = value
    return inherited


def model_at(project: Project, name: str, scale: Scale) -> str:
    """Return the model that replaces `name` at a scale, or `name`."""
    entry = project.model(name)
    if scale.name in entry.standins:
        return entry.standins[scale.name]
    if entry.architecture in scale.standin_models:
        return scale.standin_models[entry.architecture]
    return name


def task_at(project: Project, name: str, scale: Scale) -> Task:
    """Return the task that replaces `name` at a scale, or the task itself."""
    task = project.task(name)
    if scale.name in task.standins:
        return project.task(task.standins[scale.name])
    if task.kind in scale.standin_tasks:
        return project.task(scale.standin_tasks[task.kind])
    return task


def train_at(entry: RunEntry, scale: Scale) -> dict[str, Any]:
    """Return a run's training settings with the scale's values over them."""
    train = dict(entry.train)
    if scale.train:
        train.update(scale.train)
        if scale.train.get("steps") is not None:
            train.pop("epochs", None)
    return {key: value for key, value in train.items() if value is not None}


def methods_at(entry: RunEntry, scale: Scale) -> list[dict[str, Any]]:
    """Return a run's methods as mappings, with the scale's values over their fields."""
    methods = [{"name": item} if isinstance(item, str) else dict(item) for item in entry.methods]
    return [{**item, **scale.methods.get(str(item.get("name")), {})} for item in methods]
