"""A run over several tasks, from generated scenes to scores: tasks chosen by batch, resumed to equal bytes, scored task by task."""

import os
import signal
from pathlib import Path

import pytest
import torch

from replica.assets import generated, manifest, smoke_tokenizer
from replica.assets.rows import write_parquet
from replica.config import load_project
from replica.errors import INTERRUPTED
from replica.files import read_json
from replica.methods.base import Context
from replica.methods.stored import load_model
from replica.paths import Layout
from replica.plan import build_plan
from replica.plan.run_job import job_of
from replica.tasks import prepare
from replica.training import evaluate, loop
from replica.training.run import initial_model, own_methods, train_run

PROJECT = load_project(Path(__file__).resolve().parents[2])
PLAN = build_plan(PROJECT, "smoke", ["vl_adapter"])
NAMES = PLAN.named["vl_adapter"]["laptop"]
TASKS = ["smoke-scenes-vqa", "smoke-scenes-gqa", "smoke-scenes-nlvr", "smoke-scenes-caption"]


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    """Data and a pretrained backbone at smoke scale."""
    made = Layout(tmp_path_factory.mktemp("together"))
    folder, source = made.dataset("smoke-scenes"), PROJECT.dataset("smoke-scenes").sources.generated
    folder.mkdir(parents=True)
    for split, rows in generated.generate(source.generator, source.seed, source.options).items():
        write_parquet(rows, folder / f"{split}.parquet")
    tokenizer = made.model("scenes-tokenizer")
    tokenizer.mkdir(parents=True)
    smoke_tokenizer.build_scenes(tokenizer)
    for name, prepared in PLAN.prepared.items():
        if prepared.dataset == "smoke-scenes":
            prepare(PROJECT.task(prepared.task), folder, tokenizer, made.prepared(name), prepared.max_length)
    assert train_run(job_of(PROJECT, PLAN, NAMES["backbone"], 0, made)) == 0
    return made


def watched(monkeypatch, where, stop=None):
    """Record the tasks that are chosen; after `stop` of them send this process the signal that ends a job."""
    seen, choose = [], where.select_task

    def record(model, task):
        seen.append(task)
        choose(model, task)
        if len(seen) == stop:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(where, "select_task", record)
    return seen


def test_a_run_over_four_tasks_names_them_in_order():
    run = PLAN.run(NAMES["multiple"])
    assert run.tasks == TASKS == [PLAN.prepared[name].task for name in run.trained_data]
    assert set(run.evaluate) == set(TASKS) and run.prepared >= set(run.trained_data)


def test_only_adapters_of_tasks_that_came_change_and_a_resumed_run_has_the_same_bytes(layout, monkeypatch):
    run = PLAN.run(NAMES["multiple"])
    seen = watched(monkeypatch, loop)
    assert train_run(job_of(PROJECT, PLAN, run.id, 0, layout)) == 0
    assert len(seen) == run.spec.train["steps"]
    stored = layout.run("smoke", run.id, 0)
    whole = manifest.read(stored)
    tasks_of_whole = list(seen)

    methods = own_methods(run)
    start, _ = initial_model(job_of(PROJECT, PLAN, run.id, 0, layout), "text2text", 2, methods)
    for _, method in methods:
        method.prepare(start, Context(seed=0, head="text2text"))
    trained, _ = load_model(stored)
    for task in range(len(TASKS)):
        mine = [name for name in start.state_dict() if f".adapter.down.{task}." in name]
        changed = [not torch.equal(start.state_dict()[name], trained.state_dict()[name]) for name in mine]
        assert mine and any(changed) == (task in tasks_of_whole[1:])  # the first step of a warm-up has the rate 0

    monkeypatch.undo()
    os.rename(stored, stored.with_name("whole"))
    seen = watched(monkeypatch, loop, stop=4)
    assert train_run(job_of(PROJECT, PLAN, run.id, 0, layout)) == INTERRUPTED
    assert train_run(job_of(PROJECT, PLAN, run.id, 0, layout)) == 0
    assert seen == tasks_of_whole  # the batches go on where they stopped
    again = manifest.read(stored)
    assert again["files"]["model.safetensors"] == whole["files"]["model.safetensors"]
    assert again["files"]["history.jsonl"] == whole["files"]["history.jsonl"]


@pytest.mark.parametrize("name", ["full", "single", "half", "hyperformer", "compacter", "lora", "prompt"])
def test_every_way_of_tuning_trains_and_is_scored_on_all_tasks(layout, monkeypatch, name):
    run = PLAN.run(NAMES[name])
    assert train_run(job_of(PROJECT, PLAN, run.id, 0, layout)) == 0
    facts = manifest.read(layout.run("smoke", run.id, 0))
    expected = [value["trainable_parameters"] for value in facts["expected"].values()]
    assert expected == [facts["counts"]["trainable_parameters"]]
    chosen = watched(monkeypatch, evaluate)
    evaluate.evaluate_run(job_of(PROJECT, PLAN, run.id, 0, layout))
    found = read_json(layout.run("smoke", run.id, 0) / "metrics.json")["tasks"]
    assert set(found) == set(TASKS)
    assert [TASKS[task] for task in chosen] == sorted(TASKS)  # each task is scored with its own adapter
    assert found["smoke-scenes-caption"]["phrase_recall"]["n"] == 16


def test_a_choice_among_rates_is_by_the_mean_of_the_tasks(layout):
    run = PLAN.run(NAMES["single"])
    if not (layout.run("smoke", run.id, 0) / manifest.NAME).exists():
        assert train_run(job_of(PROJECT, PLAN, run.id, 0, layout)) == 0
    model, _ = load_model(layout.run("smoke", run.id, 0))
    trained = [PROJECT.task(name) for name in run.tasks]
    scores = evaluate.select_scores(model, trained, [layout.prepared(name) for name in run.trained_data])
    parts = [scores[f"{task.name}.{task.primary.name}"] for task in trained]
    assert scores["mean"] == pytest.approx(sum(parts) / 4)
