"""Checks what registries, tasks and scales name of packages above the configuration: methods, metrics, architectures. Imports no torch."""

from __future__ import annotations

from replica.config.project import Project
from replica.config.references import check_part, known
from replica.errors import ConfigError
from replica.methods import registry
from replica.models.architectures import ARCHITECTURES
from replica.tasks import kinds
from replica.tasks.metrics import METRICS


def check_owned_names(project: Project) -> None:
    """Raise ConfigError with file, key and the nearest name for an unknown method or option of one, metric, kind or architecture."""
    for task in project.tasks.values():
        where = project.where_of(task)
        for metric in task.metrics if kinds.of(task).scored else ():
            known(metric.name, METRICS, f"{where}: metrics", "metric")
        kinds.of(task).check(task)
    for name, scale in project.scales.items():
        where = f"config/scales/{name}.yaml"
        for key in scale.standin_models:
            known(key, ARCHITECTURES, f"{where}: standin_models", "architecture")
        for key, options in scale.methods.items():
            known(key, registry.entries(), f"{where}: methods", "method")
            check_part(registry.entry(key).config, options, f"{where}: methods.{key}")
            if "name" in options:
                raise ConfigError(f"{where}: methods.{key}: `name` is the key '{key}' itself; take it out")
