"""One more paper (a folder) and one more method (a folder and its row in the shared table): no other place has to be touched."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys

import pytest

from .checkout import ROOT, environment

pytestmark = pytest.mark.workflow

PAPER = """
id: gated_sublayers
title: One More Paper
authors: Doe
year: 2024
venue: none
families: [pruning]
summary: Gates on feed-forward sublayers, for a test.
sets:
  size: [6x384, 12x768]
measurements:
  '6x384': {model: all-minilm-l6, methods: [sublayer-gates], meters: {parameters: {}}}
  '12x768': {model: bert-base-uncased, methods: [sublayer-gates], meters: {parameters: {}}}
runs:
  laptop:
    full: {stage: adapt, model: all-minilm-l6, task: rotten-sentiment, train: {steps: 20, train_rows: 100}}
    gated: {base: full, methods: [sublayer-gates]}
claims:
  - all: {kind: parameters, evidence: structural, where: Table 1, source: table, confidence: high}
    claims:
      - id: gates-count
        statement: A gate for each output of a feed-forward sublayer
        metric: trained parameters
        csv: {file: table1.csv}
        ours: {each: '{model}.parameters.trainable'}
        tolerance: {absolute: 0, reason: arithmetic}
      - id: gates-quality
        statement: Gates alone keep the accuracy
        evidence: full
        kind: accuracy
        metric: accuracy
        value: 1.0
        not_run: a test
        trend:
          statement: Gates keep the accuracy of full fine-tuning
          effect: runs.gated.rotten-sentiment.accuracy - runs.full.rotten-sentiment.accuracy
          margin: -1
          dataset: rotten-tomatoes
          metric: accuracy
          quick: true
          protocol: a test
tables:
  - {id: counts, title: Counts, claims: [gates-count]}
figures:
  - {id: counts, title: Counts, kind: bar, y: parameters, series: {trained: gates-count}}
"""
TABLE = "model,trained\n6x384,2304\n12x768,9216\n"  # layers x width
CONFIG = '''"""Configuration of gates on feed-forward sublayers."""

from __future__ import annotations

from replica.methods.registry import MethodConfig, method


@method("sublayer-gates", version=1, changes={"modules"}, persistent=True)
class SublayerGatesConfig(MethodConfig):
    """Every output of a feed-forward sublayer is multiplied by a trained gate that starts at one."""
'''
METHOD = '''"""Gates on the outputs of feed-forward sublayers."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from replica.methods.base import Context, Method
from replica.methods.peft.trainable import count, head_parameters, train_only
from replica.models.sublayers import sublayer_outputs


def _gated(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
    return output * module.gate


class SublayerGates(Method):
    """y = g * (W x + b), with g a trained vector that starts at one."""

    def prepare(self, model: Any, context: Context) -> None:
        """Add the gates and freeze the rest but a new head."""
        if self.name not in context.restored:
            self.restore(model)
        gates = [place.module.gate for place in sublayer_outputs(model, "feed-forward")]
        train_only(model, [*gates, *head_parameters(model)])

    def restore(self, model: Any) -> None:
        """Add gates of one."""
        for place in sublayer_outputs(model, "feed-forward"):
            place.module.gate = nn.Parameter(torch.ones(place.module.out_features, device=place.module.weight.device))
            place.module.register_forward_hook(_gated)

    def expected(self, model: Any) -> dict[str, float]:
        """Count one gate for each output of each layer's feed-forward sublayer, and a new head."""
        config = model.config
        return {"trainable_parameters": config.num_hidden_layers * config.hidden_size + count(head_parameters(model))}
'''
LEFT_OUT = (
    ".git",
    ".venv",
    ".snakemake",
    ".pytest_cache",
    ".ruff_cache",
    "__pycache__",
    "results",
    "assets",
    "state",
    "logs",
)
UNIT_TESTS = ("test_papers.py", "test_papers_conventions.py", "test_config.py", "test_pinned.py", "test_imports.py")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the checkout with the paper and the method."""
    folder = tmp_path_factory.mktemp("addition") / "checkout"

    def left_out(path: str, names: list[str]) -> list[str]:
        return [name for name in names if name in LEFT_OUT and (name in LEFT_OUT[1:6] or path == str(ROOT))]

    shutil.copytree(ROOT, folder, ignore=left_out, symlinks=True)
    (folder / "results").mkdir()
    (folder / "results" / "pinned").symlink_to(ROOT / "results" / "pinned")
    paper = folder / "config" / "papers" / "gated_sublayers"
    paper.mkdir()
    (paper / "paper.yaml").write_text(PAPER, encoding="utf-8")
    (paper / "table1.csv").write_text(TABLE, encoding="utf-8")
    method = folder / "src" / "replica" / "methods" / "pruning" / "sublayer_gates"
    method.mkdir()
    (method / "config.py").write_text(CONFIG, encoding="utf-8")
    (method / "method.py").write_text(METHOD, encoding="utf-8")
    table = folder / "tests" / "methods" / "table.py"
    start = "ROWS: list[Row] = [\n"
    text = table.read_text(encoding="utf-8")
    assert start in text
    table.write_text(text.replace(start, f'{start}    Row("sublayer-gates"),\n'), encoding="utf-8")
    return folder


def _run(folder, *arguments):
    variables = {**environment(), "PYTHONPATH": str(folder / "src"), "COLUMNS": "200"}
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(
        command,
        cwd=folder,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    return done.stdout


def test_it_is_planned(checkout):
    printed = _run(checkout, "replica.cli", "plan", "gated_sublayers", "--runs")
    assert "adapt-all-minilm-l6-sublayer-gates-rotten-sentiment-" in printed


def test_it_runs_at_smoke_scale_and_its_counts_match(checkout):
    cores = str(min(2, os.cpu_count() or 1))
    _run(checkout, "snakemake", "--cores", cores, "--nocolor", "--config", "scale=smoke", "papers=gated_sublayers")
    with open(checkout / "results" / "smoke" / "claims.csv", encoding="utf-8", newline="") as handle:
        rows = {row["claim"]: row for row in csv.DictReader(handle)}
    assert {name: row["verdict"] for name, row in rows.items() if name.startswith("gates-count")} == {
        "gates-count:6x384.trained": "match",
        "gates-count:12x768.trained": "match",
    }
    assert rows["gates-quality:trend"]["our_value"] != ""


def test_the_tests_of_all_papers_and_methods_pass_with_it(checkout):
    options = ("-q", "-p", "no:cacheprovider", "-p", "no:xdist")
    _run(checkout, "pytest", *options, *(f"tests/unit/{name}" for name in UNIT_TESTS))
    _run(
        checkout,
        "pytest",
        *options,
        "tests/methods/test_registry.py",
        "tests/methods/test_table.py",
        "-k",
        "sublayer-gates or registry",
    )
