"""Every task file stands for a task that the data sets, metrics and scales know."""

from __future__ import annotations

from pathlib import Path

import pytest

from replica.config import load_project, task_schema
from replica.config.task_schema import HeldOut
from replica.models.heads import HEADS
from replica.tasks import METRICS, kinds

ROOT = Path(__file__).parents[2]
PROJECT = load_project(ROOT)
TASKS = PROJECT.tasks


@pytest.mark.parametrize("name", TASKS)
def test_splits_are_splits_of_the_data_set(name):
    task = TASKS[name]
    known = PROJECT.datasets[task.dataset].splits
    select = task.splits.select.source if isinstance(task.splits.select, HeldOut) else task.splits.select
    for split in (task.splits.train, select, task.splits.report):
        assert split is None or set(split.split("+")) <= set(known)


@pytest.mark.parametrize("name", TASKS)
def test_metrics_are_known_with_their_direction(name):
    task = TASKS[name]
    if task.kind == "text":
        assert [m.name for m in task.metrics] == ["distillation_loss"]
        return
    for metric in task.metrics:
        assert metric.direction == METRICS[metric.name].direction
    assert kinds.of(task).label_count(task) >= 1


@pytest.mark.parametrize("name", TASKS)
def test_selection_never_reads_what_is_reported_of_a_paper(name):
    task = TASKS[name]
    if name.startswith(("glue-", "t5-", "squad")):
        assert isinstance(task.splits.select, HeldOut)
        assert task.splits.select.source == task.splits.train == "train"
        assert task.splits.report.startswith("validation")


@pytest.mark.parametrize("name", [n for n in TASKS if not n.startswith("smoke-")])
def test_every_task_has_a_stand_in_of_its_kind(name):
    task = TASKS[name]
    standin = TASKS[task.standins["smoke"]]
    assert standin.kind == task.kind
    assert standin.next_sentence == task.next_sentence
    assert (standin.target is None) == (task.target is None)


@pytest.mark.parametrize("name", [n for n in TASKS if n.startswith("t5-glue-")])
def test_text_to_text_tasks_read_the_same_rows_as_their_classification_twin(name):
    task, twin = TASKS[name], TASKS[name.removeprefix("t5-")]
    assert (task.dataset, task.splits, task.target, task.labels) == (
        twin.dataset,
        twin.splits,
        twin.target,
        twin.labels,
    )
    assert sorted(task.inputs) == sorted(twin.inputs)
    assert task.metrics == twin.metrics


def test_a_kind_is_a_module_with_a_head_and_a_stand_in():
    assert sorted(kinds.KINDS) == task_schema.KINDS
    for name, kind in kinds.KINDS.items():
        assert kind.name == name
        assert kind.pipeline
        assert name in HEADS
        assert TASKS[PROJECT.scales["smoke"].standin_tasks[name]].kind == name


def test_files_fit_their_kinds():
    for task in TASKS.values():
        kinds.of(task).check(task)
