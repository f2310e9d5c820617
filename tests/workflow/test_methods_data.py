"""Methods that need more of a run than its batches: halves of the data, other text, their own draws, numbers beside the scores."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml

from replica.assets import manifest
from replica.claims.evidence import Evidence
from replica.config import load_project
from replica.errors import ConfigError
from replica.paths import Layout
from replica.plan import build_plan
from replica.plan.run_job import job_of
from replica.training.evaluate import evaluate_run
from replica.training.run import train_run

from .checkout import make_checkout, snakemake

pytestmark = pytest.mark.workflow
ADAPTER = {"name": "adapter", "reduction": 4}
RUNS = {
    "private": {
        "model": "smoke-bert",
        "task": "smoke-sentiment",
        "methods": [{**ADAPTER, "layer_norms": False}, {"name": "private-gradients", "epsilon": 3.0}],
    },
    "search": {"model": "smoke-t5", "task": "smoke-t2t", "methods": [{"name": "s3pet", "budget": 0.01}]},
    "retrain": {
        "from": "search",
        "task": "smoke-t2t",
        "methods": [{"name": "s3pet", "budget": 0.01, "phase": "retrain"}],
    },
    "ladder": {
        "model": "smoke-t5",
        "task": "smoke-t2t",
        "methods": [{"name": "ladder-side-tuning", "reduction": 4, "fisher_examples": 4}],
    },
    "domain": {
        "model": "smoke-bert",
        "task": "smoke-mlm",
        "beside": "smoke-mlm",
        "methods": [{"name": "mixture-of-domain-adapters", "layers": [1], "gate_rate": 0.01}],
    },
    "mixed": {
        "from": "domain",
        "task": "smoke-sentiment",
        "methods": [
            {**ADAPTER, "places": "feed-forward"},
            {"name": "mixture-of-domain-adapters", "layers": [1], "stage": "task"},
        ],
    },
    "eight": {
        "model": "smoke-bert",
        "task": "smoke-sentiment",
        "methods": [{"name": "eight-bit-optimizer", "smallest": 1024}],
    },
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A checkout with these runs and their tokenized data."""
    pytest.importorskip("bitsandbytes")
    pytest.importorskip("opacus")
    folder = make_checkout(tmp_path_factory.mktemp("methods"), ["attempt"])
    runs = {name: {"stage": "adapt", "train": {"steps": 6, "learning_rate": 1e-3}, **run} for name, run in RUNS.items()}
    claim = {
        "id": "c",
        "kind": "accuracy",
        "statement": "s",
        "evidence": "full",
        "metric": "accuracy",
        "value": 1.0,
        "where": "T",
    }
    claim |= {"source": "abstract", "confidence": "low", "not_run": "a test"}
    paper = {
        "id": "attempt",
        "title": "t",
        "authors": "a",
        "year": 2020,
        "venue": "v",
        "families": ["peft"],
        "summary": "s",
    }
    text = yaml.safe_dump({**paper, "runs": {"laptop": runs}, "claims": [claim]}, sort_keys=False)
    (folder / "config" / "papers" / "attempt").mkdir()
    (folder / "config" / "papers" / "attempt" / "paper.yaml").write_text(text, encoding="utf-8")
    project = load_project(folder, quick=False)
    plan = build_plan(project, "smoke")
    wanted = sorted({f"assets/prepared/{name}/manifest.json" for name in plan.prepared})
    snakemake(folder, "--config", "scale=smoke", "--", *wanted)
    return project, plan, Layout(folder)


def trained(made, name: str) -> dict:
    project, plan, layout = made
    run = plan.named["attempt"]["laptop"][name]
    folder = layout.run("smoke", run, 0)
    if not folder.exists():
        assert train_run(job_of(project, plan, run, 0, layout)) == 0
    return manifest.verify(folder)


def test_epsilon_stands_beside_every_score(made, capfd):
    project, plan, layout = made
    facts = trained(made, "private")
    run = plan.named["attempt"]["laptop"]["private"]
    found = facts["reported"]["private-gradients"]
    assert 2.9 < found["epsilon"] <= 3.0 and found["steps"] == 6 and found["sample_rate"] == 8 / facts["rows"]
    evaluate_run(job_of(project, plan, run, 0, layout))
    assert f"[epsilon {found['epsilon']:.3g} (prv) at delta 1e-05]" in capfd.readouterr().err
    stored = json.loads((layout.run("smoke", run, 0) / "metrics.json").read_text(encoding="utf-8"))
    assert stored["reported"]["private-gradients"] == found
    evidence = Evidence(project, project.paper("attempt"), "smoke", layout.results, plan.named["attempt"])
    outcome = evidence.look("runs.private.reported.private-gradients.epsilon + 1", "laptop", 1)
    assert outcome.values == (found["epsilon"] + 1,)
    with pytest.raises(ConfigError, match=r"no reported number .private-gradients\.epsilo."):
        evidence.look("runs.private.reported.private-gradients.epsilo", "laptop", 1)


def test_search_trains_on_one_half_and_retraining_on_all(made):
    search, again = trained(made, "search"), trained(made, "retrain")
    assert search["rows"] == -(-again["rows"] // 2)
    found = search["reported"]["s3pet"]
    assert found["expected"] == pytest.approx(found["budget"], rel=1e-4)
    assert (
        again["counts"]["trainable_parameters"]
        == found["chosen"]
        == again["reported"]["s3pet"]["chosen"]
        <= found["budget"]
    )


def test_a_ladder_starts_from_the_tasks_own_examples(made):
    facts = trained(made, "ladder")
    assert facts["counts"]["trainable_parameters"] == facts["expected"]["ladder-side-tuning"]["trainable_parameters"]


def test_both_stages_of_a_mixture(made):
    _, plan, layout = made
    domain, mixed = trained(made, "domain"), trained(made, "mixed")
    run = plan.named["attempt"]["laptop"]["domain"]
    lines = [
        json.loads(line)
        for line in (layout.run("smoke", run, 0) / "history.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    for line in lines:
        assert line["loss"] == pytest.approx(0.5 * line["domain_loss"] + line["sampling_loss"], rel=0.05)
    assert {"layer1.adapter0", "layer1.backbone"} == set(mixed["reported"]["mixture-of-domain-adapters"])
    spec = domain["spec"]["beside"]
    assert spec["task"][0] == "smoke-mlm" and spec["data"] == plan.run(run).data


def test_other_text_belongs_to_the_run(made, tmp_path):
    """It is part of the run's id, must suit the run's head, and a method that needs it says so."""
    _, plan, layout = made
    folder = make_checkout(tmp_path, ["attempt"])
    path = folder / "config" / "papers" / "attempt" / "paper.yaml"
    path.parent.mkdir()
    values = yaml.safe_load((layout.root / "config" / "papers" / "attempt" / "paper.yaml").read_text(encoding="utf-8"))
    del values["runs"]["laptop"]["domain"]["beside"]
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    other = build_plan(load_project(folder, quick=False), "smoke")
    run = other.named["attempt"]["laptop"]["domain"]
    assert run != plan.named["attempt"]["laptop"]["domain"]
    with pytest.raises(ConfigError, match="keeps to general text"):
        train_run(job_of(load_project(folder, quick=False), other, run, 0, Layout(_with_assets(folder, layout))))
    values["runs"]["laptop"]["domain"]["beside"] = "smoke-sentiment"
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    with pytest.raises(ConfigError, match="beside: task 'smoke-sentiment' needs another head than 'smoke-mlm'"):
        build_plan(load_project(folder, quick=False), "smoke")


def _with_assets(folder, layout):
    (folder / "assets").symlink_to(layout.root.resolve() / "assets")
    return folder


def test_states_are_kept_in_8_bits_by_the_library(made):
    facts = trained(made, "eight")
    _, plan, layout = made
    run = plan.named["attempt"]["laptop"]["eight"]
    lines = [
        json.loads(line)
        for line in (layout.run("smoke", run, 0) / "history.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert np.isfinite([line["loss"] for line in lines]).all() and facts["steps"] == 6
