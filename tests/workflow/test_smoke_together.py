"""A run over several tasks through real Snakemake at smoke scale: scenes made, prepared for each task, trained, scored on all."""

from __future__ import annotations

import json
import shutil

import pytest

from replica.config import load_project
from replica.plan import build_plan

from .checkout import make_checkout, snakemake

pytestmark = pytest.mark.workflow


def test_adapters_of_four_tasks_are_trained_and_scored_from_nothing(tmp_path):
    folder = make_checkout(tmp_path, ["vl_adapter"], sections=["laptop"])
    plan = build_plan(load_project(folder), "smoke")
    run = plan.run(plan.named["vl_adapter"]["laptop"]["multiple"])
    target = f"results/smoke/runs/{run.id}/seed0/metrics.json"
    made = snakemake(folder, "--config", "scale=smoke", "--", target)
    assert (
        len(list((folder / "assets" / "prepared").iterdir())) == 5
    )  # the four tasks, and what the backbone was pretrained on
    assert (
        set(json.loads((folder / target).read_text(encoding="utf-8"))["tasks"]) == set(run.tasks) == set(run.evaluate)
    )
    assert "Nothing to be done" in snakemake(folder, "--config", "scale=smoke", "--", target).stdout, made.stdout
    # Training reads the data of every task: what is gone is made again, and the run after it.
    shutil.rmtree(folder / "assets" / "prepared" / run.trained_data[1])
    assert run.id in snakemake(folder, "--config", "scale=smoke", "--dry-run", "--", target).stdout


def test_a_ladder_beside_clip_t5_is_trained_on_images_and_answers(tmp_path):
    folder = make_checkout(tmp_path, ["lst"], sections=["paper"])
    plan = build_plan(load_project(folder), "smoke")
    run = plan.run(plan.named["lst"]["paper"]["vl-lst"])
    target = f"results/smoke/runs/{run.id}/seed0/metrics.json"
    snakemake(folder, "--config", "scale=smoke", "--", target)
    assert (
        set(json.loads((folder / target).read_text(encoding="utf-8"))["tasks"]) == set(run.tasks) == set(run.evaluate)
    )
    about = json.loads((folder / target).with_name("manifest.json").read_text(encoding="utf-8"))
    expected = about["expected"]["ladder-side-tuning"]["trainable_parameters"]
    assert about["counts"]["trainable_parameters"] == expected
