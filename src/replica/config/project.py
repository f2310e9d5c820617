"""The whole configuration of a checkout, read and cross-checked before anything runs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from replica.config.asset_schema import DatasetEntry, ModelEntry
from replica.config.hub_lock import apply_lock, read_lock
from replica.config.paper_folder import FILE, read_paper
from replica.config.references import check_references
from replica.config.schema import Paper
from replica.config.settings import Scale, Settings
from replica.config.strict import NAME, NAME_WORDS
from replica.config.task_files import read_tasks
from replica.config.task_schema import Task
from replica.config.validation import validate
from replica.config.yaml_files import read_yaml
from replica.errors import ConfigError, nearest
from replica.files import visible


@dataclass(frozen=True)
class Project:
    """Registries, tasks, papers and scales of one checkout; papers are read when first asked for."""

    root: Path
    settings: Settings
    datasets: dict[str, DatasetEntry]
    models: dict[str, ModelEntry]
    tasks: dict[str, Task]
    task_groups: dict[str, list[str]]
    scales: dict[str, Scale]

    def paper(self, name: str) -> Paper:
        """Return a paper of `config/papers/`; raises ConfigError with the nearest known name."""
        if name not in self.papers:
            raise ConfigError(f"unknown paper '{name}'{nearest(name, self.paper_folders)}")
        return self.papers[name]

    @cached_property
    def paper_folders(self) -> dict[str, Path]:
        """Every paper's folder by the paper's name."""
        folders = {}
        for path in visible(self.root / "config" / "papers"):
            if path.suffix == ".yaml":
                raise ConfigError(f"config/papers/{path.name}: a paper is a folder; rename it {path.stem}/{FILE}")
            if path.is_dir():
                folders[path.name] = path
        return folders

    @cached_property
    def enabled(self) -> list[str]:
        """Names of the enabled papers: those of the setting `papers`, or all that are not `disabled`."""
        for key in ("papers", "disabled"):
            for name in getattr(self.settings, key) or ():
                if name not in self.paper_folders:
                    raise ConfigError(
                        f"config/config.yaml: {key}: unknown paper '{name}'{nearest(name, self.paper_folders)}"
                    )
        if self.settings.papers is not None:
            return self.settings.papers
        return [name for name in self.paper_folders if name not in self.settings.disabled]

    @cached_property
    def papers(self) -> dict[str, Paper]:
        """The enabled papers by name."""
        return {name: read_paper(self.paper_folders[name], self.task_groups) for name in self.enabled}

    def scale(self, name: str) -> Scale:
        """Return a scale by name."""
        return _pick(self.scales, name, "scale")

    def task(self, name: str) -> Task:
        """Return a task by name."""
        return _pick(self.tasks, name, "task")

    def model(self, name: str) -> ModelEntry:
        """Return a registered model by name."""
        return _pick(self.models, name, "model")

    def dataset(self, name: str) -> DatasetEntry:
        """Return a registered data set by name."""
        return _pick(self.datasets, name, "data set")

    def where_of(self, task: Task) -> str:
        """Return the file that holds a task, and in a group's file its key, as errors name them."""
        group = next((group for group, names in self.task_groups.items() if task.name in names), None)
        return f"config/tasks/{group}.yaml: tasks.{task.name}" if group else f"config/tasks/{task.name}.yaml"

    def tokenizer_of(self, model: str) -> str:
        """Return the name of the registered model whose tokenizer `model` uses."""
        return self.model(model).tokenizer or model


def _pick(known: dict[str, Any], name: str, kind: str) -> Any:
    if name not in known:
        raise ConfigError(f"unknown {kind} '{name}'{nearest(name, known)}")
    return known[name]


def load_project(root: Path | str = ".", **overrides: Any) -> Project:
    """Read and validate every configuration file below `root`.

    `overrides` replace entries of config/config.yaml (Snakemake's `--config`). Raises ConfigError naming file and key.
    """
    root = Path(root)
    config = root / "config"
    if not config.is_dir():
        raise ConfigError(f"{config}: no such folder; run from the root of a checkout")
    settings = _settings(_mapping(read_yaml(config / "config.yaml"), "config/config.yaml"), overrides)
    lock = read_lock(root)
    tasks, groups = read_tasks(config / "tasks")
    project = Project(
        root=root,
        settings=settings,
        datasets=apply_lock(_registry(config / "datasets.yaml", "datasets", DatasetEntry), lock.datasets, "datasets"),
        models=apply_lock(_registry(config / "models.yaml", "models", ModelEntry), lock.models, "models"),
        tasks=tasks,
        task_groups=groups,
        scales=_folder(config / "scales", Scale),
    )
    check_references(project)
    return project


def _settings(values: dict[str, Any], overrides: dict[str, Any]) -> Settings:
    """Return the settings of the file with the values of this call over them; each is checked where it was given."""
    named = {key: value for key, value in overrides.items() if value is not None}
    for words, where in ((values, "config/config.yaml"), ({**values, **named}, "--config")):
        for key in ("papers", "disabled", "claims"):
            if isinstance(words.get(key), str):
                words[key] = words[key].replace(",", " ").split()
        settings = validate(Settings, words, where)
    return settings


def _registry(path: Path, key: str, model: type) -> dict[str, Any]:
    where = f"config/{path.name}"
    content = _mapping(read_yaml(path), where)
    if set(content) != {key}:
        raise ConfigError(f"{where}: expected the single key '{key}', got {', '.join(map(repr, content)) or 'none'}")
    entries = _mapping(content[key], f"{where}: {key}")
    for name in entries:
        if not (isinstance(name, str) and re.fullmatch(NAME, name)):
            raise ConfigError(f"{where}: {key}: {name!r} is no name: {NAME_WORDS}")
    return {name: validate(model, value, f"{where}: {key}.{name}") for name, value in entries.items()}


def _mapping(content: Any, where: str) -> dict[str, Any]:
    """Return a mapping (an empty file is one without keys); ConfigError where it is something else."""
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{where}: expected a mapping of keys to values, got {type(content).__name__}")
    return content


def _folder(folder: Path, model: type) -> dict[str, Any]:
    entries = {}
    for path in visible(folder, "*.yaml"):
        where = f"config/{folder.name}/{path.name}"
        entry = validate(model, read_yaml(path), where)
        if entry.name != path.stem:
            raise ConfigError(f"{where}: name is '{entry.name}', but the file is named '{path.stem}'")
        entries[entry.name] = entry
    return entries
