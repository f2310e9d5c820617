"""The settings of runs that are as released, against the figures read in the official repositories (`released_settings/<paper>.yaml`).

A row names a run of the paper (or a measurement), the files where the figures were read, and any of: `train` and `methods`, effective
settings with their defaults; `starts`, the distributions of drawn parameters by globs over their names, and `modules`, classes and
attributes by globs over modules' names, both in the model at its published width with two layers; `trained`, the numbers that train at
the published size, and `tensors`, the tensors that they are in.
"""

from __future__ import annotations

import dataclasses
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

import pytest
import torch
from transformers import set_seed

from replica import models
from replica.config import load_project
from replica.config.schema import Measurement, Train
from replica.config.yaml_files import read_yaml
from replica.methods import Context, parse
from replica.models.factory import known_fields
from replica.plan import build_plan
from replica.tasks import kinds

ROOT = Path(__file__).resolve().parents[2]
PROJECT = load_project(ROOT)
FILES = sorted((Path(__file__).parent / "released_settings").glob("*.yaml"))
TABLES = {path.stem: read_yaml(path) for path in FILES}
ROWS = [(paper, row) for paper, table in TABLES.items() for row in table["rows"]]
LAYERS = ("num_hidden_layers", "num_layers", "num_decoder_layers", "n_layer", "encoder_layers", "decoder_layers")
KEYS = {
    "run",
    "section",
    "instance",
    "measurement",
    "files",
    "source",
    "train",
    "methods",
    "starts",
    "modules",
    "trained",
    "tensors",
}
#: A sample of n normal numbers has a standard deviation within 5 % of its law's from n = 2,000 on (four standard errors of 1 / sqrt(2n)).
NEAR = 0.05


def _name(paper: str, row: dict) -> str:
    return f"{paper}-{row.get('instance') or row.get('run') or row['measurement']}"


@cache
def _plan(scale: str):
    settings = PROJECT.settings.model_copy(update={"quick": False})
    return build_plan(dataclasses.replace(PROJECT, settings=settings), scale)


def _spec(paper: str, row: dict):
    plan = _plan(row["section"])
    return plan.runs[plan.named[paper][row["section"]][row.get("instance", row["run"])]].spec


def _measurement(paper: str, row: dict) -> Measurement:
    """The model of the row, as a measurement: of the paper's own, or of a run."""
    if "measurement" in row:
        return PROJECT.paper(paper).measurements[row["measurement"]]
    spec = _spec(paper, row)
    task = PROJECT.task(spec.task.name)
    references = [{key: value for key, value in method.items() if key != "version"} for method in spec.methods]
    head, labels = kinds.of(task).head(task), kinds.of(task).label_count(task)
    return Measurement(model=spec.root, head=head, labels=labels or 2, methods=references, meters={"parameters": {}})


def _model(paper: str, row: dict, device: str):
    """The row's model with its methods: at its published size on meta, else with two layers and drawn weights."""
    measurement = _measurement(paper, row)
    entry = PROJECT.model(measurement.model)
    layers = {} if device == "meta" else {key: 2 for key in LAYERS if key in known_fields(entry.architecture)}
    changes = {**dict(measurement.config), **layers}
    model = models.build(
        entry, head=measurement.head, labels=measurement.labels, seed=0, device=device, changes=changes
    )
    set_seed(0)
    context = Context(head=measurement.head, total_steps=100, rows=10_000, batch_size=100)
    for reference in measurement.methods:
        method_entry, config = parse(reference)
        method_entry.create(config).prepare(model, context)
    return model


def _check_start(name: str, values: torch.Tensor, law: dict) -> None:
    if law["law"] == "constant":
        assert torch.all(values == law["value"]), name
        return
    assert len(values) >= 2000, f"{name}: {len(values)} numbers are too few to tell a distribution"
    assert float(values.std()) == pytest.approx(law["std"], rel=NEAR), name
    # the fourth moment over the squared second is 3 for a normal law and 1.8 for a uniform one
    shape = float((values**4).mean() / (values**2).mean() ** 2)
    assert shape == pytest.approx({"normal": 3.0, "uniform": 1.8}[law["law"]], rel=0.15), name


@pytest.mark.parametrize("paper", TABLES)
def test_a_table_names_its_repository_and_its_rows_have_known_keys(paper):
    table = TABLES[paper]
    assert table["repository"].startswith("https://") and table["commit"] and table["rows"]
    for row in table["rows"]:
        assert not row.keys() - KEYS and ("files" in row or "source" in row), _name(paper, row)
        assert row.keys() & {"train", "methods", "starts", "modules", "trained", "tensors"}, _name(paper, row)


def test_every_paper_with_published_runs_and_released_code_has_a_table():
    published = {name for name, paper in PROJECT.papers.items() if paper.runs.get("paper") and paper.code}
    assert not published - TABLES.keys(), "add tests/methods/released_settings/<paper>.yaml"


@pytest.mark.parametrize(("paper", "row"), ROWS, ids=[_name(*row) for row in ROWS])
def test_settings_are_the_released_ones(paper, row):
    if "train" in row:
        effective = Train(**_spec(paper, row).train).model_dump()
        assert {key: effective[key] for key in row["train"]} == row["train"]
    if "methods" in row:
        configs = {
            reference["name"]: parse(reference)[1].model_dump(mode="json")
            for reference in _measurement(paper, row).methods
        }
        for name, expected in row["methods"].items():
            assert {key: configs[name][key] for key in expected} == expected
    if "trained" in row or "tensors" in row:
        training = [p for p in _model(paper, row, "meta").parameters() if p.requires_grad]
        if "trained" in row:
            assert sum(parameter.numel() for parameter in training) == row["trained"]
        assert len(training) == row.get("tensors", len(training))
    if "starts" in row or "modules" in row:
        model = _model(paper, row, "cpu")
        for pattern, law in row.get("starts", {}).items():
            tensors = [p.detach().flatten() for name, p in model.named_parameters() if fnmatchcase(name, pattern)]
            assert tensors, f"{pattern} fits no parameter"
            _check_start(pattern, torch.cat(tensors), law)
        for pattern, expected in row.get("modules", {}).items():
            modules = [module for name, module in model.named_modules() if fnmatchcase(name, pattern)]
            assert modules, f"{pattern} fits no module"
            for module in modules:
                assert type(module).__name__ == expected["class"]
                assert {key: getattr(module, key) for key in expected if key != "class"} == {
                    key: value for key, value in expected.items() if key != "class"
                }
