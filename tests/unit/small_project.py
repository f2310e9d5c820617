"""A small configuration in a temporary folder, for tests of reading and planning."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

SHA = "0" * 64

PAPER: dict[str, Any] = {
    "id": "one",
    "title": "One",
    "authors": "A",
    "year": 2020,
    "venue": "V",
    "families": ["distillation"],
    "summary": "s",
    "runs": {
        "laptop": {
            "teacher": {
                "stage": "teacher",
                "model": "base",
                "task": "words",
                "train": {"steps": 10, "learning_rate": 1e-3},
                "seeds": "one",
            },
            "student": {
                "stage": "compress",
                "model": "small",
                "task": "words",
                "teacher": "teacher",
                "methods": [{"name": "logit-distillation"}],
                "train": {"steps": 10},
                "tune": {"learning_rate": [1e-3, 3e-3]},
            },
            "plain": {"stage": "adapt", "model": "small", "task": "words", "train": {"steps": 10}},
        }
    },
    "claims": [
        {
            "id": "gain",
            "kind": "accuracy",
            "statement": "distilled beats plain",
            "evidence": "full",
            "metric": "accuracy",
            "value": 1.0,
            "where": "Table 1",
            "source": "abstract",
            "confidence": "high",
            "not_run": "needs GPUs",
            "trend": {
                "statement": "distilled minus plain is above 0",
                "effect": "runs.student.words.accuracy - runs.plain.words.accuracy",
                "seeds": 3,
                "dataset": "words",
                "metric": "accuracy",
                "quick": True,
                "protocol": "two arms, ten steps",
            },
        }
    ],
}

DATASETS = {
    "datasets": {
        name: {
            "title": name,
            "licence": "MIT",
            "redistribute": True,
            "sources": {"generated": {"generator": "sentiment"}},
            "splits": {
                part: {"rows": rows, "sha256": SHA} for part, rows in (("train", 100), ("validation", 10), ("test", 10))
            },
        }
        for name in ("words", "smoke-words")
    }
}


def _model(hidden: int, **more: Any) -> dict[str, Any]:
    config = {
        "hidden_size": hidden,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 4 * hidden,
        "vocab_size": 50,
    }
    return {"title": "m", "architecture": "bert", "config": config, **more}


MODELS = {"models": {"base": _model(16), "small": _model(8, tokenizer="base"), "tiny": _model(4, tokenizer="base")}}


def _task(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "version": 1,
        "dataset": name,
        "kind": "classification",
        "inputs": ["text"],
        "target": "label",
        "labels": ["a", "b"],
        "splits": {"train": "train", "select": "validation", "report": "test"},
        "metrics": [{"name": "accuracy"}],
        "max_length": 16,
    }


SCALES = {
    "smoke": {
        "name": "smoke",
        "sections": ["laptop", "paper"],
        "seeds": 1,
        "standin_models": {"bert": "tiny"},
        "standin_tasks": {"classification": "smoke-words"},
        "train": {"steps": 2, "batch_size": 4},
        "tune": False,
    },
    "laptop": {"name": "laptop", "sections": ["laptop"], "seeds": 3},
    "paper": {"name": "paper", "sections": ["paper"], "seeds": 1},
}


def paper(**changes: Any) -> dict[str, Any]:
    """Return a copy of the paper with top-level entries changed."""
    return {**copy.deepcopy(PAPER), **changes}


def write_project(folder: Path, *papers: dict[str, Any], settings: dict[str, Any] | None = None) -> Path:
    """Write a whole configuration below `folder` and return it."""
    papers = papers or (paper(),)
    config = folder / "config"
    for name in ("papers", "tasks", "scales"):
        (config / name).mkdir(parents=True, exist_ok=True)
    values = {"papers": [item["id"] for item in papers], **(settings or {})}
    _dump(config / "config.yaml", values)
    _dump(config / "datasets.yaml", DATASETS)
    _dump(config / "models.yaml", MODELS)
    for name in ("words", "smoke-words"):
        _dump(config / "tasks" / f"{name}.yaml", _task(name))
    for name, value in SCALES.items():
        _dump(config / "scales" / f"{name}.yaml", value)
    for item in papers:
        (config / "papers" / item["id"]).mkdir(exist_ok=True)
        _dump(config / "papers" / item["id"] / "paper.yaml", item)
    return folder


def _dump(path: Path, value: Any) -> None:
    path.write_text(yaml.safe_dump(value, sort_keys=False), encoding="utf-8")
