"""`snakemake --profile slurm` from the root of a checkout: two papers' smoke scale through a real SLURM, with the local run's ledger."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml

from replica.config import load_project
from replica.plan import build_plan
from tests.workflow.checkout import snakemake

from .sites import make_site

pytestmark = [pytest.mark.slurm, pytest.mark.workflow]
#: Papers, and the one trend of each whose runs are made: a model shared by both, a chain of three jobs, and an adapter.
TRENDS = {"compacter": "compacter-parity", "minilm": "minilm-table2-glue-squad"}


def _shorten(folder):
    """Leave one trend in each paper, so that the test takes a minute and not five."""
    for paper, kept in TRENDS.items():
        path = folder / "config" / "papers" / f"{paper}.yaml"
        data = yaml.safe_load(path.read_text())
        for claim in data["claims"]:
            if claim["id"] != kept:
                claim.pop("trend", None)
        path.write_text(yaml.safe_dump(data, sort_keys=False))


@pytest.fixture(scope="module")
def both(cluster, tmp_path_factory):
    """The same checkout made through SLURM and on this machine; returns both folders, Snakemake's text and the jobs."""
    far = make_site(tmp_path_factory.mktemp("far"), list(TRENDS))
    _shorten(far)
    near = shutil.copytree(far, tmp_path_factory.mktemp("near") / "checkout", symlinks=True)
    with cluster.snakemake(far, "--config", "scale=smoke") as controller:
        snakemake(near, "--config", "scale=smoke")
        assert controller.wait() == 0, controller.text()[-4000:]
    return far, near, cluster.jobs(far)


def test_same_ledger_as_the_local_run(both):
    far, near, _ = both
    for name in ("claims.csv", "claims.json", "summary.json"):
        path = f"results/smoke/{name}"
        assert (far / path).read_bytes() == (near / path).read_bytes(), name


def test_same_weights_predictions_and_metrics_as_the_local_run(both):
    _, near, _ = both
    plan = build_plan(load_project(near, quick=False), "smoke")
    made = [run for run in plan.runs.values() if run.seeds]
    assert len(made) == 5
    for run in made:
        folder = f"results/smoke/runs/{run.id}/seed0"
        first, second = (json.loads((root / folder / "manifest.json").read_text())["files"] for root in both[:2])
        assert {name: entry["sha256"] for name, entry in first.items()} == {
            name: entry["sha256"] for name, entry in second.items()
        }, run.id
        if run.evaluate:
            first, second = (json.loads((root / folder / "metrics.json").read_text()) for root in both[:2])
            assert first["tasks"] == second["tasks"], run.id


def test_compute_ran_on_the_cluster_and_text_did_not(both):
    _, _, jobs = both
    assert jobs and {job.state for job in jobs} == {"COMPLETED"}
    rules = {job.comment.partition("rule_")[2].partition("_wildcards")[0] for job in jobs}
    assert {"targets", "compress", "adapt", "evaluate", "measure_structure"} <= rules, rules
    assert not rules & {"retrieve_dataset", "retrieve_model", "compare", "ledger", "tables", "figures", "report"}, rules


def test_second_call_has_nothing_to_do(both, cluster):
    far = both[0]
    with cluster.snakemake(far, "--config", "scale=smoke") as controller:
        assert controller.wait() == 0
    assert "Nothing to be done" in controller.text()
