"""Reads `config/tasks/`: a file is one task, or a group of tasks with the keys that they share.

A group's file has `tasks:`, a mapping of each task's name to its own keys, beside the shared ones. A task's own key replaces the
shared one whole: `splits: {…}` of a task is not merged with the group's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from replica.config.task_schema import Task
from replica.config.validation import validate
from replica.config.yaml_files import read_yaml
from replica.errors import ConfigError
from replica.files import visible


def read_tasks(folder: Path) -> tuple[dict[str, Task], dict[str, list[str]]]:
    """Return all tasks by name, and each group's tasks by the name of its file.

    Raises ConfigError naming file and task: for unknown keys, a name that is not the file's, and a name that two files use.
    """
    tasks: dict[str, Task] = {}
    groups: dict[str, list[str]] = {}
    files: dict[str, str] = {}
    for path in visible(folder, "*.yaml"):
        where = f"config/{folder.name}/{path.name}"
        content = read_yaml(path)
        if isinstance(content, dict) and "tasks" in content:
            entries = _group(content, where)
            groups[path.stem] = list(entries)
        else:
            task = validate(Task, content, where)
            if task.name != path.stem:
                raise ConfigError(f"{where}: name is '{task.name}', but the file is named '{path.stem}'")
            entries = {task.name: task}
        for name, task in entries.items():
            if name in tasks:
                raise ConfigError(f"{where}: task '{name}' is already in {files[name]}")
            tasks[name], files[name] = task, where
    for name in sorted(set(groups) & set(tasks)):
        raise ConfigError(
            f"config/{folder.name}/{name}.yaml: '{name}' is the name of a task in {files[name]}; rename the group"
        )
    return dict(sorted(tasks.items())), groups


def _group(content: dict[str, Any], where: str) -> dict[str, Task]:
    shared = {key: value for key, value in content.items() if key != "tasks"}
    if not isinstance(content["tasks"], dict) or not content["tasks"]:
        raise ConfigError(f"{where}: tasks: expected a mapping of names to the keys of each task")
    if "name" in shared:
        raise ConfigError(f"{where}: a group has the name of its file; the keys of `tasks` are the names of its tasks")
    tasks = {}
    for name, own in content["tasks"].items():
        if not isinstance(own, dict):
            raise ConfigError(f"{where}: tasks.{name}: expected a mapping of keys to values, got {type(own).__name__}")
        if "name" in own:
            raise ConfigError(f"{where}: tasks.{name}: `name` is the key '{name}' itself; take it out")
        tasks[name] = validate(Task, {"name": name, **shared, **own}, f"{where}: tasks.{name}")
    return tasks
