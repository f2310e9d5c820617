"""Checks that every name in the registries, tasks and scales is that of something, before anything runs. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from replica.config.asset_schema import DatasetEntry, ModelEntry
from replica.config.known_sources import BUILDERS, GENERATORS, LOADERS, MODEL_GENERATORS, columns_of
from replica.config.schema import Train
from replica.config.settings import Scale
from replica.config.task_schema import HeldOut, Task
from replica.config.validation import explain
from replica.errors import ConfigError, nearest

if TYPE_CHECKING:
    from replica.config.project import Project


def check_references(project: Project) -> None:
    """Raise ConfigError with file, key and the nearest name where a registry, task or scale names what is not there."""
    for name, entry in project.datasets.items():
        _check_dataset(project, f"config/datasets.yaml: datasets.{name}", entry)
    for name, entry in project.models.items():
        _check_model(project, f"config/models.yaml: models.{name}", entry)
    for task in project.tasks.values():
        _check_task(project, project.where_of(task), task)
    for scale in project.scales.values():
        _check_scale(project, f"config/scales/{scale.name}.yaml", scale)


def known(name: str | None, names: Iterable[str], where: str, kind: str) -> None:
    """Raise ConfigError with the nearest name unless `name` is one of `names` (or None)."""
    names = list(names)
    if name is not None and name not in names:
        raise ConfigError(f"{where}: unknown {kind} '{name}'{nearest(name, names)}")


def check_part(model: type[BaseModel], values: dict[str, Any], where: str) -> None:
    """Raise ConfigError for keys and values that `model` cannot have, whatever the keys that are not given."""
    try:
        model.model_validate(values)
    except ValidationError as error:
        if reason := explain(error, model, values):
            raise ConfigError(f"{where}: {reason}") from None


def _check_dataset(project: Project, where: str, entry: DatasetEntry) -> None:
    for scale, standin in entry.standins.items():
        known(standin, project.datasets, f"{where}.standins.{scale}", "data set")
    known(entry.build, BUILDERS, f"{where}.build", "builder")
    if (parsed := entry.sources.generated) is not None:
        known(parsed.generator, GENERATORS, f"{where}.sources.generated.generator", "generator")
        for option in parsed.options:
            options = ("sizes", "unanswerable") if parsed.generator == "span" else ("sizes",)
            known(option, options, f"{where}.sources.generated.options", "option")
    if entry.sources.package is not None:
        known(entry.sources.package.loader, LOADERS, f"{where}.sources.package.loader", "loader")


def _check_model(project: Project, where: str, entry: ModelEntry) -> None:
    for key, name in (("tokenizer", entry.tokenizer), ("weights_of", entry.weights_of)):
        known(name, project.models, f"{where}.{key}", "model")
    for scale, standin in entry.standins.items():
        known(standin, project.models, f"{where}.standins.{scale}", "model")
    if entry.weights_of is not None and project.models[entry.weights_of].sources is None:
        raise ConfigError(
            f"{where}.weights_of: model '{entry.weights_of}' has no `sources`, so no weights to start with"
        )
    if entry.sources is not None and (parsed := entry.sources.generated) is not None:
        known(parsed.generator, MODEL_GENERATORS, f"{where}.sources.generated.generator", "generator")


def _check_task(project: Project, where: str, task: Task) -> None:
    known(task.dataset, project.datasets, where, "data set")
    dataset, splits = project.datasets[task.dataset], task.splits
    select = {"select.from": splits.select.source} if isinstance(splits.select, HeldOut) else {"select": splits.select}
    for part, name in {"train": splits.train, **select, "report": splits.report}.items():
        for split in name.split("+") if name is not None else ():
            known(split, dataset.splits, f"{where}: splits.{part}", "split")
    for scale, standin in task.standins.items():
        known(standin, project.tasks, f"{where}: standins.{scale}", "task")
    columns = columns_of(dataset)
    by = splits.select.by if isinstance(splits.select, HeldOut) else None
    named = [("inputs", name) for name in task.inputs] + [("only", name) for name in task.only]
    for key, name in [*named, ("images", task.images), ("target", task.target), ("splits.select.by", by)]:
        if columns and name is not None and name.partition(".")[0] not in columns:
            known(name, columns, f"{where}: {key}", "column")


def _check_scale(project: Project, where: str, scale: Scale) -> None:
    for key, model in scale.standin_models.items():
        known(model, project.models, f"{where}: standin_models.{key}", "model")
    for key, task in scale.standin_tasks.items():
        known(task, project.tasks, f"{where}: standin_tasks.{key}", "task")
    removed = {key for key, value in scale.train.items() if value is None and key in Train.model_fields}
    check_part(Train, {key: value for key, value in scale.train.items() if key not in removed}, f"{where}: train")
