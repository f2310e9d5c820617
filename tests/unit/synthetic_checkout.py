"""A small checkout with one invented paper, and measurements for it, for the tests of claims and report."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from replica.claims.evidence import measurement_settings
from replica.config import load_project
from replica.config.project import Project
from replica.files import read_json, sha256_file
from replica.seals import write_sealed

PAPER = {
    "id": "toy",
    "title": "Toys & Trifles: 50% smaller_models",
    "authors": "Doe, Roe",
    "year": 2024,
    "venue": "Journal of Toys",
    "arxiv": "2401.00001",
    "families": ["toys"],
    "summary": "Small <models> are smaller.",
    "errata": ["Table 9 counts a bias twice."],
    "seeds": {"paper": 2},
    "measurements": {
        "toy-base": {"model": "toy", "meters": {"parameters": {}}},
        "6x768": {"model": "toy", "meters": {"parameters": {}}},
    },
    "runs": {
        "laptop": {
            "plain": {"stage": "adapt", "model": "toy", "task": "toy-task", "train": {"steps": 10}},
            "small-{lr}": {
                "stage": "adapt", "model": "toy", "task": "toy-task", "matrix": {"lr": ["a", "b"]},
                "train": {"steps": 5}, "description": "{lr}",
            },
            "slow": {"stage": "adapt", "model": "toy", "task": "toy-task", "train": {"steps": 20}},
        },
        "paper": {
            "big": {"stage": "adapt", "model": "toy", "task": "toy-task", "train": {"steps": 100}},
        },
    },
    "claims": [],
    "tables": [
        {"id": "sizes", "title": "Sizes_of toys", "where": "Table 1", "claims": ["toy-sizes", "toy-total"]},
        {"id": "scores", "title": "Scores", "claims": ["toy-scores"], "transpose": True},
    ],
    "figures": [
        {"id": "sizes", "title": "Sizes", "kind": "bar", "y": "parameters",
         "series": {"base": "toy-base.parameters.total", "6x768": {"6x768": "6x768.parameters.total"}}},
        {"id": "table", "title": "A table's cells", "kind": "bar", "series": {"sizes": "toy-sizes"}},
        {"id": "plane", "title": "Plane", "kind": "scatter", "x": "parameters", "y": "ours", "log": "x",
         "series": {"toy": {"base": "toy-base.parameters.total, ours.toy-share",
                            "paper": "6x768.parameters.total, paper.toy-share"}}},
        {"id": "curve", "title": "Curve", "kind": "line", "series": {
            "loss": {"x": "history.plain.step", "y": "history.plain.loss"},
            "points": {"x": "1, 2, max(3, 1)", "y": "1, 4, 9"}}},
        {"id": "nothing", "title": "Nothing yet", "kind": "bar", "series": {"big": "runs.big.toy-task.accuracy"}},
        {"id": "effect", "title": "Effects", "kind": "effects"},
    ],
}  # fmt: skip


def claim(identity: str, **values) -> dict:
    """Return a claim with what every claim needs."""
    base = {
        "id": identity, "kind": "parameters", "statement": f"statement of {identity}", "evidence": "structural",
        "model": "Toy-base", "dataset": None, "metric": "parameters", "where": "Table 1", "source": "abstract",
        "confidence": "high",
    }  # fmt: skip
    return {**base, **values}


TREND = {
    "statement": "Plain is better than small", "effect": "100 * (runs.plain.toy-task.accuracy - runs.small-a.toy-task.accuracy)",
    "margin": 1.0, "dataset": "toy-data", "metric": "accuracy", "quick": True, "protocol": "Two arms, ten and five steps.",
    "shows": {"plain": "100 * runs.plain.toy-task.accuracy", "small": "100 * runs.small-a.toy-task.accuracy"},
}  # fmt: skip

CLAIMS = [
    claim("toy-total", value=1000, ours="toy-base.parameters.total", tolerance={"relative": 0.01, "reason": "two digits"}),
    claim("toy-share", value=0.047, ours="6x768.parameters.trainable / toy-base.parameters.total", unit="fraction"),
    claim(
        "toy-sizes",
        value={"toy-base": {"total": 1004, "trainable": [10, 20]}, "6x768": {"total": 300, "trainable": [5, None]}},
        ours={
            "toy-base": {"total": "{0}.parameters.total", "trainable": "{0}.parameters.trainable"},
            "6x768": {"total": "{0}.parameters.total", "trainable": {"0": "6x768.parameters.trainable"}},
        },
        metric="size / cost",
        confidence="low",
        source="memory",
        tolerance={"absolute": 5, "reason": "rounded"},
        explain={"6x768": "ours counts the pooler & more"},
    ),
    claim("toy-wrong", value=7, ours="6x768.parameters.trainable", erratum="7 is 5 + 2, its own formula gives 47"),
    claim("toy-order", value="base >= small", direction="at-least", ours="toy-base.parameters.total - 6x768.parameters.total"),
    claim("toy-blocked", value=3.5, blocked="the data were never published"),
    claim("toy-none", value=3.5, not_run="needs a P100", evidence="full", kind="speed", metric="seconds"),
    claim("toy-rival", value=9, reference=True, evidence="full", kind="accuracy"),
    claim(
        "toy-scores",
        value={"A": "90.5/80.5", "B": 70.0},
        ours={"A": {"0": "100 * runs.big.toy-task.accuracy", "1": "100 * runs.big.toy-task.f1"}},
        evidence="full", kind="accuracy", metric="accuracy / F1", direction="higher", dataset="toy-data", unit="percent",
        tolerance={"absolute": 0.5, "reason": "half a point"},
    ),
    claim("toy-trend", value=None, evidence="full", trend=TREND),
    claim("toy-slow", value=None, evidence="full",
          trend={**TREND, "effect": "runs.slow.toy-task.accuracy - runs.plain.toy-task.accuracy", "quick": False,
                 "shows": {}}),
]  # fmt: skip

STRUCTURAL = {
    "paper": "toy",
    "measurements": {
        "toy-base": {"parameters": {"total": 1000, "trainable": 15, "broken": None}},
        "6x768": {"parameters": {"total": 400, "trainable": 47}},
    },
}


def make(root: Path, claims: list[dict] | None = None, **changes) -> Project:
    """Write the checkout's configuration below `root` and load it."""
    task = {
        "name": "toy-task", "version": 1, "dataset": "toy-data", "kind": "classification", "inputs": ["text"], "target": "label",
        "labels": ["no", "yes"], "splits": {"train": "train", "select": "validation", "report": "validation"},
        "metrics": [{"name": "accuracy"}, {"name": "f1"}],
    }  # fmt: skip
    files = {
        "config.yaml": {"papers": ["toy"], "scale": "laptop", "quick": True,
                        "tolerances": {"accuracy": {"absolute": 0.5, "reason": "seeds"}}},
        "datasets.yaml": {"datasets": {"toy-data": {
            "title": "Toy", "licence": "CC0-1.0", "redistribute": True, "splits": {"train": None, "validation": None},
            "sources": {"generated": {"generator": "sentiment"}}}}},
        "models.yaml": {"models": {"toy": {"title": "Toy", "architecture": "bert", "config": {"hidden_size": 8}}}},
        "tasks/toy-task.yaml": task,
        "scales/smoke.yaml": {"name": "smoke", "sections": ["laptop", "paper"], "seeds": 2, "train": {"steps": 2}},
        "scales/laptop.yaml": {"name": "laptop", "sections": ["laptop"], "seeds": 3},
        "scales/paper.yaml": {"name": "paper", "sections": ["paper"], "seeds": 1},
        "papers/toy/paper.yaml": {**PAPER, "claims": CLAIMS if claims is None else claims, **changes},
    }  # fmt: skip
    for name, content in files.items():
        path = root / "config" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return load_project(root)


def store(path: Path, value: dict) -> None:
    """Write JSON as the job that makes it does, sealed; files of a seed beside it that name it, or that it names, follow."""
    path.parent.mkdir(parents=True, exist_ok=True)
    facts: dict = {}
    if path.parent.name.startswith("seed"):
        manifest = path.with_name("manifest.json")
        value = {**value, "run": path.parents[1].name, "seed": int(path.parent.name.removeprefix("seed"))}
        if path == manifest:
            logs = {log.name: {"sha256": sha256_file(log)} for log in path.parent.glob("history.jsonl")}
            value["files"] = {**value.get("files", {}), **logs}
        else:
            if not manifest.exists():
                store(manifest, {})
            facts = {"inputs": {"manifest.json": sha256_file(manifest)}}
    elif path.parent.name == "structural":
        project = load_project(path.parents[2], papers=value["paper"])
        facts = {"settings": measurement_settings(project, project.paper(value["paper"]))}
    write_sealed(path, value, **facts)
    if path.name == "manifest.json":
        for name in ("metrics.json", "measures.json"):
            if path.with_name(name).exists():
                store(path.with_name(name), read_json(path.with_name(name)))


def store_metrics(results: Path, scale: str, run: str, seed: int, **metrics: float) -> Path:
    """Write a run's metrics on the toy task; every metric's own interval is ± 0.01."""
    found = {
        name: {"value": value, "low": value - 0.01, "high": value + 0.01, "n": 100} for name, value in metrics.items()
    }
    path = results / scale / "runs" / run / f"seed{seed}" / "metrics.json"
    store(path, {"run": run, "seed": seed, "tasks": {"toy-task": found}, "measures": {}})
    return path


def fill(results: Path, ids: dict[str, dict[str, str]], scale: str = "laptop") -> None:
    """Store structural measurements and the metrics of every run but `slow`: effects of 2, 3 and 4 points."""
    store(results / "structural" / "toy.json", STRUCTURAL)
    if scale == "laptop":
        for seed, (plain, small) in enumerate([(0.82, 0.80), (0.84, 0.81), (0.86, 0.82)]):
            store_metrics(results, scale, ids["laptop"]["plain"], seed, accuracy=plain, f1=plain)
            store_metrics(results, scale, ids["laptop"]["small-a"], seed, accuracy=small, f1=small)
        lines = "".join(json.dumps({"loss": 1 / (step + 1), "step": step}) + "\n" for step in range(5))
        folder = results / scale / "runs" / ids["laptop"]["plain"] / "seed0"
        (folder / "history.jsonl").write_text(lines, encoding="utf-8")
        store(
            folder / "manifest.json",
            {"versions": {"torch": "2.13.0"}, "hardware": {"processor": "toy chip"}, "files": {}},
        )
    elif scale == "paper":
        for seed, (accuracy, f1) in enumerate([(0.90, 0.78), (0.92, 0.79)]):
            store_metrics(results, scale, ids["paper"]["big"], seed, accuracy=accuracy, f1=f1)
