"""`snakemake --profile slurm` from the root of a checkout: two papers' smoke scale through a real SLURM, with the local run's ledger."""

from __future__ import annotations

import json

import pytest

from replica.config import load_project
from replica.plan import build_plan

pytestmark = [pytest.mark.slurm, pytest.mark.workflow]


def test_same_ledger_as_the_local_run(smoke):
    assert smoke.status == 0, smoke.text[-4000:]
    for name in ("claims.csv", "claims.json", "summary.json"):
        path = f"results/smoke/{name}"
        assert (smoke.far / path).read_bytes() == (smoke.near / path).read_bytes(), name


def test_same_weights_predictions_and_metrics_as_the_local_run(smoke):
    plan = build_plan(load_project(smoke.near, quick=False), "smoke")
    made = [run for run in plan.runs.values() if run.seeds]
    assert len(made) == 5
    for run in made:
        folder = f"results/smoke/runs/{run.id}/seed0"
        first, second = (
            json.loads((root / folder / "manifest.json").read_text(encoding="utf-8"))["files"]
            for root in (smoke.far, smoke.near)
        )
        assert {name: entry["sha256"] for name, entry in first.items()} == {
            name: entry["sha256"] for name, entry in second.items()
        }, run.id
        if run.evaluate:
            first, second = (
                json.loads((root / folder / "metrics.json").read_text(encoding="utf-8"))
                for root in (smoke.far, smoke.near)
            )
            assert first["tasks"] == second["tasks"], run.id


def test_compute_ran_on_the_cluster_and_text_did_not(smoke):
    assert smoke.jobs and {job.state for job in smoke.jobs} == {"COMPLETED"}
    rules = {job.comment.partition("rule_")[2].partition("_wildcards")[0] for job in smoke.jobs}
    assert {"targets", "compress", "adapt", "evaluate", "measure_structure"} <= rules, rules
    assert not rules & {"retrieve_dataset", "retrieve_model", "compare", "ledger", "tables", "figures", "report"}, rules


def test_second_call_has_nothing_to_do(smoke, cluster):
    with cluster.snakemake(smoke.far, "--config", "scale=smoke") as controller:
        assert controller.wait() == 0
    assert "Nothing to be done" in controller.text()
