"""A job is told its specification: the plan that Snakemake stores gives each job the same as planning would."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from replica.config import load_project
from replica.jobs.programs import STORED_PLAN, run_job, run_parser
from replica.paths import Layout
from replica.plan import build_plan
from replica.plan.run_job import KEPT, job_of, read_job, store_plan, stored_plan
from replica.plan.run_spec import RunSpec

from .small_project import write_project


@pytest.fixture
def planned(tmp_path):
    project = load_project(write_project(tmp_path))
    return project, build_plan(project, "laptop")


def test_a_specification_is_read_back_from_its_content(root):
    project = load_project(root, quick=False)
    for scale in project.scales:
        for run in build_plan(project, scale).runs.values():
            assert RunSpec.read(run.spec.content()) == run.spec


def test_a_stored_plan_gives_each_job_as_planning_would(planned):
    project, plan = planned
    path, text = stored_plan(project, plan)
    store_plan(path, text)
    for run in plan.runs.values():
        job = read_job(path, "laptop", run.id, 2, Layout(project.root))
        expected = job_of(project, plan, run.id, 2)
        plain = {name: replace(item, seeds=set(), names=set(), papers=set()) for name, item in plan.runs.items()}
        assert (job.run, job.relatives) == (plain[run.id], {name: plain[name] for name in expected.relatives})
        fields = ("scale", "seed", "tasks", "models", "gpus", "is_candidate", "confidence_level")
        assert all(getattr(job, name) == getattr(expected, name) for name in fields)
        assert (job.folder, job.state) == (expected.folder, expected.state)
    assert read_job(path, "laptop", "adapt-unknown-00000000", 0, Layout(project.root)) is None
    assert read_job(path.with_name("gone.jsonl"), "laptop", run.id, 0, Layout(project.root)) is None


def test_a_program_plans_only_where_no_plan_is_stored(planned, monkeypatch):
    project, plan = planned
    path, text = stored_plan(project, plan)
    run = plan.named["one"]["laptop"]["plain"]
    arguments = ["--scale", "laptop", "--run", run, "--seed", "1", "--root", str(project.root)]
    monkeypatch.setenv(STORED_PLAN, os.path.relpath(path, project.root))
    assert run_job(run_parser("").parse_args(arguments)).run.names == {"plain"}, "planned here"
    store_plan(path, text)
    (project.root / "config" / "config.yaml").write_text("broken", encoding="utf-8")
    assert run_job(run_parser("").parse_args(arguments)).run.spec == plan.runs[run].spec, "nothing of config is read"


def test_old_stored_plans_are_removed(tmp_path):
    for number in range(KEPT + 2):
        store_plan(tmp_path / "plans" / f"{number}.jsonl", "{}")
        os.utime(tmp_path / "plans" / f"{number}.jsonl", (number, number))
    store_plan(tmp_path / "plans" / "last.jsonl", "{}")
    assert len(list((tmp_path / "plans").iterdir())) == KEPT
    assert (tmp_path / "plans" / "last.jsonl").exists()
