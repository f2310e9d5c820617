"""Names in claims, tables and figures fail before anything runs, in one line with the nearest name; declared keys are the measured ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from replica.claims.evidence import flat
from replica.claims.name_checks import COUNTS, MEASURES, _fits
from replica.config import load_project
from replica.errors import ConfigError
from replica.meters.registry import meters_of, result_names
from replica.methods.registry import parse
from replica.plan import build_plan
from tests.unit.small_project import paper, write_project

ROOT = Path(__file__).resolve().parents[2]
PROJECT = load_project(ROOT)
MEASURED = {
    "student": {
        "model": "small",
        "methods": ["lora"],
        "meters": {
            "parameters": {},
            "flops": {},
            "memory": {},
            "config": {},
            "search_space": {"ranges": {"rank": [1, 8, 1]}},
        },
    }
}


def _broken(tmp_path, change) -> str:
    """Return the one line with which a paper fails at plan time."""
    content = paper(measurements=MEASURED)
    change(content)
    with pytest.raises(ConfigError) as caught:
        build_plan(load_project(write_project(tmp_path, content)))
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith("config/papers/one/paper.yaml: ")
    return text


@pytest.mark.parametrize(
    ("ours", "message"),
    [
        ("studnt.parameters.total", "did you mean 'student'"),
        ("student.parameters.trainabel", "did you mean 'parameters.trainable'"),
        ("student.paramters.total", "did you mean 'parameters.total'"),
        ("student.parameters.by_part.layer_linear", "did you mean 'parameters.by_part.layer_linears'"),
        (
            "student.parameters.expected.lora.trainable_parameter",
            "did you mean 'parameters.expected.lora.trainable_par",
        ),
        ("student.parameters.expected.adapter.trainable_parameters", "expected.lora.trainable_parameters"),
        ("student.config.rnk", "did you mean 'config.rank'"),
        ("student.config.lora.rnk", "did you mean 'config.lora.rank'"),
        ("student.flops.backward_total", "gives no 'flops.backward_total'"),
        ("student.flops.sparse_forward", "gives no 'flops.sparse_forward'"),  # there is no density
        ("student.memory.largest_batch", "gives no 'memory.largest_batch'"),  # there is no budget
        ("student.search_space.values.rnk", "did you mean 'search_space.values.rank'"),
    ],
)
def test_an_unknown_key_of_a_measurement(tmp_path, ours, message):
    text = _broken(tmp_path, lambda content: content["claims"][0].update(ours=ours))
    assert "claims.gain.ours: " in text
    assert message in text


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("runs.studnt.words.accuracy", "did you mean 'student'"),
        ("runs.student.wrds.accuracy", "names no task; did you mean 'words'"),
        ("runs.student.words.acuracy", "task 'words' has no metric 'acuracy'; did you mean 'accuracy'"),
        ("runs.student.counts.trainable_parameter", "did you mean 'trainable_parameters'"),
        ("runs.student.measures.latency_median_ms", "is not measured; give it `measure: {latency: true}`"),
        ("runs.plain.reported.lora.rank", "run 'plain' has no method that could report a number"),
    ],
)
def test_an_unknown_number_of_a_run(tmp_path, expression, message):
    def change(content):
        content["claims"][0]["trend"]["shows"] = {"arm": expression}

    text = _broken(tmp_path, change)
    assert "claims.gain.trend.shows.arm: " in text
    assert message in text


@pytest.mark.parametrize(
    ("series", "message"),
    [
        ("history.plain.los", "did you mean 'loss'"),
        ("history.plan.loss", "did you mean 'plain'"),
        ("ours.gian", "names no cell of a claim; did you mean 'gain'"),
        ("100 * student.parameters.trainabel", "did you mean 'parameters.trainable'"),
        ("student.flops.by_prt.{part}", "gives no 'flops.by_prt.{part}'"),
    ],
)
def test_an_unknown_name_in_a_figure(tmp_path, series, message):
    figure = {"id": "f", "title": "F", "kind": "bar", "series": {"arm": series}}
    text = _broken(tmp_path, lambda content: content.update(figures=[figure]))
    assert "figures.f.series.arm: " in text
    assert message in text


@pytest.mark.parametrize(
    ("method", "name", "message"),
    [
        (
            {"name": "private-gradients", "epsilon": 8.0},
            "runs.plain.reported.private-gradients.epsilonn",
            "did you mean 'private-gradients.epsilon'",
        ),
        ("lora", "runs.plain.reported.lora.rank", "run 'plain' has no method that could report a number"),
        ("deft", "history.plain.density_los", "did you mean 'density_loss'"),
        ("lora", "history.plain.density_loss", "run 'plain' gives no 'history.density_loss'"),
    ],
)
def test_a_number_that_no_method_of_the_run_declares(tmp_path, method, name, message):
    def change(content):
        content["runs"]["laptop"]["plain"]["methods"] = [method]
        content["figures"] = [{"id": "f", "title": "F", "kind": "bar", "series": {"arm": name}}]

    text = _broken(tmp_path, change)
    assert "figures.f.series.arm: " in text
    assert message in text


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("method_cost.prunabel", "did you mean 'method_cost.prunable'"),
        ("method_cost.sparse-modules.prunabel", "did you mean 'method_cost.sparse-modules.prunable'"),
        ("method_cost.expected.trainable", "method_cost.expected.trainable_parameters"),
    ],
)
def test_a_cost_that_the_method_does_not_declare(tmp_path, key, message):
    def change(content):
        content["measurements"]["sparse"] = {
            **MEASURED["student"],
            "methods": ["sparse-modules"],
            "meters": {"method_cost": {}},
        }
        content["claims"][0]["ours"] = f"sparse.{key}"

    assert message in _broken(tmp_path, change)


def test_an_unknown_name_in_a_table(tmp_path):
    table = {"id": "t", "title": "T", "arms": {"row": {"column": "runs.student.words.acuracy"}}}
    text = _broken(tmp_path, lambda content: content.update(tables=[table]))
    assert "tables.t.arms.row.column: " in text
    assert "did you mean 'accuracy'" in text


@pytest.mark.parametrize(
    "path", sorted((ROOT / "results/pinned/structural").glob("*.json")), ids=lambda path: path.stem
)
def test_declared_keys_are_the_measured_ones(path):
    """Every pinned number has a declared key, and every declared key without `*` was measured."""
    measurements = PROJECT.paper(path.stem).measurements
    for name, results in json.loads(path.read_text(encoding="utf-8"))["measurements"].items():
        if "unavailable" in results:
            continue
        measurement = measurements[name]
        methods = [entry for entry, _ in map(parse, measurement.methods)]
        keys = {entry.name: {"<field>": entry.config.model_fields, "<cost>": entry.costs} for entry in methods}
        declared = result_names(PROJECT, measurement.datasets, meters_of(measurement), keys)
        measured = flat({meter: numbers for meter, numbers in results.items() if meter != "assumptions"})
        assert not [key for key in measured if not _fits(key, declared)], name
        optional = ("parameters.expected.", "config.", "method_cost.", "storage.by_part.", "memory.peak_phase")
        assert not [
            key for key in declared if "*" not in key and not key.startswith(optional) and key not in measured
        ], name


def test_the_declared_numbers_of_a_run_are_those_it_gives():
    import torch

    from replica.meters.timing import latency
    from replica.training.run import _counts

    assert tuple(_counts(torch.nn.Linear(2, 2))) == COUNTS
    numbers = {key for key, value in latency(lambda: None, 1, 1, repeats=2).items() if not isinstance(value, str)}
    assert {f"latency_{key}" for key in numbers} == {key for key in MEASURES if key.startswith("latency_")}
