"""Files of tasks: a group's tasks have the shared keys and their own; mistakes are one line with file and nearest name."""

from __future__ import annotations

import pytest
import yaml

from replica.config import load_project
from replica.errors import ConfigError

from .small_project import paper, write_project

ROW = {"dataset": "words", "labels": ["a", "b"]}
SHARED = {
    "version": 1,
    "kind": "classification",
    "inputs": ["text"],
    "target": "label",
    "splits": {"train": "train", "select": "validation", "report": "test"},
    "metrics": [{"name": "accuracy"}],
}


def load(folder, content, name="family", write=True):
    if write:
        write_project(folder)
    (folder / "config" / "tasks" / f"{name}.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return load_project(folder)


def test_a_groups_tasks_have_the_shared_keys_and_their_own(tmp_path):
    own = {"splits": {"train": "train", "select": "test"}}
    project = load(tmp_path, {**SHARED, "tasks": {"first": ROW, "second": {**ROW, **own, "version": 3}}})
    assert project.task_groups == {"family": ["first", "second"]}
    assert (project.task("first").version, project.task("second").version) == (1, 3)
    assert project.task("first").splits.report == "test"
    assert project.task("second").splits.report is None  # a key is replaced whole


def test_a_group_is_a_set_of_every_paper(tmp_path):
    entry = {"stage": "adapt", "model": "small", "evaluate": ["{family}"], "task": "words", "train": {"steps": 2}}
    write_project(tmp_path, paper(runs={"laptop": {"wide": entry}}))
    project = load(tmp_path, {**SHARED, "tasks": {"first": ROW, "second": ROW}}, write=False)
    assert project.paper("one").runs["laptop"]["wide"].evaluate == ["first", "second"]


@pytest.mark.parametrize(
    "content, message",
    [
        (
            {**SHARED, "tasks": {"first": {**ROW, "lables": []}}},
            r"config/tasks/family.yaml: tasks.first: unknown key 'lables'; did you mean 'labels'",
        ),
        ({**SHARED, "kinds": 1, "tasks": {"first": ROW}}, "unknown key 'kinds'; did you mean 'kind'"),
        ({**SHARED, "tasks": {}}, "tasks: expected a mapping of names"),
        ({**SHARED, "tasks": {"first": None}}, "tasks.first: expected a mapping of keys to values, got NoneType"),
        ({**SHARED, "name": "family", "tasks": {"first": ROW}}, "a group has the name of its file"),
        ({**SHARED, "tasks": {"first": {**ROW, "name": "x"}}}, "tasks.first: `name` is the key 'first' itself"),
        ({**SHARED, "tasks": {"words": ROW}}, r"task 'words' is already in config/tasks/family\.yaml"),
        ({**SHARED, "tasks": {"family": ROW}}, "'family' is the name of a task in .*; rename the group"),
    ],
)
def test_mistakes_name_file_and_task(tmp_path, content, message):
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, content)
