"""Figures: intervals over seeds, histories, everything that is stored below a name, heat maps, and the data beside each drawing."""

from __future__ import annotations

import csv
import json
import math
import re

import pytest

from replica.claims.compare import report
from replica.claims.evidence import Evidence
from replica.claims.statistics import t_interval
from replica.errors import ConfigError
from replica.methods.registry import MethodConfig, MethodEntry, entries
from replica.plan import build_plan
from replica.report import figures
from tests.unit.synthetic_checkout import PAPER, fill, make, store

SCORES = [0.82, 0.84, 0.86]
#: Losses of three seeds at three steps, and a count that first stands in the second line.
LOSSES = [[1.0, 0.5, 0.25], [1.5, 0.5, 0.5], [2.0, 0.5, 0.75]]
COUNTS = [None, 1.0, 4.0]


@pytest.fixture(autouse=True)
def gates(monkeypatch):
    """A method whose numbers the runs of these figures report and record."""
    entry = MethodEntry("gates", 1, MethodConfig, frozenset(), False, False, ("layer*", "kept.*"), ("trained.*",))
    monkeypatch.setitem(entries(), "gates", entry)


def draw(root, *declared: dict) -> dict[str, list[dict[str, str]] | dict]:
    """Draw figures over runs with reported numbers, counts and histories; returns the data of each, and `listed`."""
    laptop = PAPER["runs"]["laptop"]
    runs = {**PAPER["runs"], "laptop": {**laptop, "plain": {**laptop["plain"], "methods": [{"name": "gates"}]}}}
    project = make(root, figures=[{"title": figure["id"], **figure} for figure in declared], runs=runs)
    ids = {"laptop": build_plan(project, "laptop").named["toy"]["laptop"]}
    results = root / "results"
    fill(results, ids)
    for seed, losses in enumerate(LOSSES):
        folder = results / "laptop" / "runs" / ids["laptop"]["plain"] / f"seed{seed}"
        lines = [
            {"step": 10 * (at + 1), "loss": loss, **({} if COUNTS[at] is None else {"trained.0.query": COUNTS[at]})}
            for at, loss in enumerate(losses)
        ]
        (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        gates = {"layer2.adapter": 0.1 * (seed + 1), "layer2.plain": 0.9, "layer10.plain": 1.0, "layer1": 5.0}
        store(folder / "metrics.json", {**metrics, "reported": {"gates": gates}})
        store(folder / "manifest.json", {"counts": {"trainable_parameters": 47}})
    paper = project.paper("toy")
    claims = report(project, "toy", "laptop", results, ids)
    evidence = Evidence(project, paper, "laptop", results, ids)
    listed = {entry["id"]: entry for entry in figures.write(paper, claims, evidence, root / "figures")}
    data = {path.stem: list(csv.DictReader(path.open(encoding="utf-8"))) for path in (root / "figures").glob("*.csv")}
    return {**data, "listed": listed}


def test_a_score_is_the_mean_over_seeds_with_its_interval_and_its_axis_says_of_what(tmp_path):
    made = draw(
        tmp_path,
        {"id": "plane", "kind": "scatter", "x": "trained parameters", "y": "accuracy", "series": {
            "plain": "runs.plain.counts.trainable_parameters, 100 * runs.plain.toy-task.accuracy",
            "nothing": "100 * runs.small-a.toy-task.accuracy"}},
    )  # fmt: skip
    point, level = made["plane"]
    low, high = t_interval([100 * score for score in SCORES])
    assert float(point["x"]) == 47 and float(point["y"]) == pytest.approx(84) and point["seeds"] == "3"
    assert (float(point["y low"]), float(point["y high"])) == (
        pytest.approx(low, rel=1e-5),
        pytest.approx(high, rel=1e-5),
    )
    assert point["interval over"] == "seeds" and point["scored"] == "accuracy on toy-data, report split"
    assert level["x"] == "" and float(level["y"]) == pytest.approx(81)
    drawn = (tmp_path / "figures" / "plane.svg").read_text(encoding="utf-8")
    for said in ("accuracy on toy-data, report split", "mean of 3 seeds", "95% interval over seeds"):
        assert said in drawn


def test_a_point_that_is_not_measured_is_left_out_and_said(tmp_path):
    series = {"plain": {"x": "0, 1", "y": "runs.plain.toy-task.accuracy, runs.slow.toy-task.accuracy"}}
    made = draw(tmp_path, {"id": "partly", "kind": "line", "series": series})
    assert [row["x"] for row in made["partly"]] == ["0"]
    [reason] = made["listed"]["partly"]["missing"]
    assert "not measured" in reason


def test_a_curve_is_the_mean_over_the_seeds_histories(tmp_path):
    series = {"plain": {"x": "history.plain.step", "y": "exp(history.plain.loss)"}}
    made = draw(tmp_path, {"id": "curve", "kind": "line", "series": series})
    assert [row["x"] for row in made["curve"]] == ["10", "20", "30"]
    first = [math.exp(losses[0]) for losses in LOSSES]
    assert float(made["curve"][0]["y"]) == pytest.approx(sum(first) / 3, rel=1e-5)
    assert float(made["curve"][0]["y low"]) == pytest.approx(t_interval(first)[0], rel=1e-5)


def test_a_part_in_braces_goes_through_what_is_stored_in_the_order_of_numbers(tmp_path):
    series = {"plain": "100 * runs.plain.reported.gates.layer{layer}.plain"}
    made = draw(tmp_path, {"id": "layers", "kind": "line", "series": series})
    assert [(row["x"], row["y"]) for row in made["layers"]] == [("2", "90"), ("10", "100")]


def test_a_heat_map_has_rows_and_columns_and_grey_where_nothing_is_stored(tmp_path):
    series = {"gates": "runs.plain.reported.gates.layer{column}.{part}"}
    made = draw(tmp_path, {"id": "gates", "kind": "heatmap", "x": "layer", "colour": "weight", "series": series})
    found = {(row["row"], row["column"]): row["value"] for row in made["gates"]}
    assert found == {("adapter", "2"): "0.2", ("adapter", "10"): "", ("plain", "2"): "0.9", ("plain", "10"): "1"}
    drawn = (tmp_path / "figures" / "gates.svg").read_text(encoding="utf-8")
    assert "weight" in drawn and "mean of 3 seeds" in drawn and "<image" not in drawn


def test_a_heat_map_of_a_history_shows_what_a_count_grew_by_in_a_step(tmp_path):
    series = {"plain": "history.plain.trained.{layer}.{tensor}"}
    figure = {"id": "pattern", "kind": "heatmap", "series": series}
    made = draw(tmp_path, {**figure, "per_step": True}, {**figure, "id": "counts"})
    # nothing by step 10, one by step 20, three more by step 30
    assert [(row["row"], row["column"], row["value"]) for row in made["pattern"]] == [
        ("0 query", "10", "0"), ("0 query", "20", "0.1"), ("0 query", "30", "0.3"),
    ]  # fmt: skip
    assert [row["value"] for row in made["counts"]] == ["", "1", "4"]


def test_runs_that_store_less_are_said_and_wrong_names_are_errors(tmp_path):
    old = {"id": "old", "kind": "heatmap", "series": {"plain": "runs.plain.reported.gates.kept.{column}.{slot}"}}
    made = draw(tmp_path / "old", old)
    assert not made["listed"]["old"]["drawn"] and "no stored number fits" in made["listed"]["old"]["missing"][0]
    assert not (tmp_path / "old" / "figures" / "old.csv").exists()
    for series, said in (
        ("runs.plane.reported.gates.{column}", "did you mean 'plain'"),
        ("runs.plain.toy-task.accuracy", "takes a name with parts in braces"),
        ("runs.plain.reported.gates.layer{layer}.{part}", "must be {column}"),
    ):
        with pytest.raises(ConfigError, match=r"figures\.wrong[.:]") as error:
            draw(tmp_path / "wrong", {"id": "wrong", "kind": "heatmap", "series": {"a": series}})
        assert said in str(error.value)


def test_figures_of_every_paper_have_their_data_too(tmp_path):
    made = draw(tmp_path)
    assert {row["verdict"] for row in made["verdicts"]} >= {"match", "worse"}
    apart = {row["claim"]: row for row in made["agreement"]}
    assert apart["toy-total"]["percent apart"] == "0" and apart["toy-share"]["paper"] == "0.047"
    assert [row["by seed"] for row in made["trends"] if row["trend"] == "toy-trend"] == ["2 3 4"]


@pytest.mark.parametrize("kind", ["bar", "scatter", "line", "heatmap"])
def test_a_text_is_no_formula_and_a_label_that_begins_with_an_underscore_is_shown(tmp_path, kind):
    said = r"_costs $5 to \frac$ 10"
    plain = {"x": "history.plain.step", "y": "history.plain.loss"}
    if kind in ("bar", "scatter"):
        plain = "10, 100 * runs.plain.toy-task.accuracy" if kind == "scatter" else "runs.plain.toy-task.accuracy, 2"
    texts = {"title": f"T {said}", "x": f"X {said}", "y": f"Y {said}", "caption": said}
    series, log = {said: plain, "other": plain}, {"scatter": "xy", "heatmap": "colour"}.get(kind, "")
    if kind == "heatmap":
        series, texts["colour"] = {said: "history.plain.trained.{layer}.{tensor}", "other": series["other"]}, "C $1$"
        series["other"] = series[said]
    draw(tmp_path, {"id": "hard", "kind": kind, "series": series, "log": log, **texts})
    drawn = (tmp_path / "figures" / "hard.svg").read_text(encoding="utf-8")
    assert re.search(rf"> ?{re.escape(said)}<", drawn), "in the legend"
    for text in [f"T {said}", f"X {said}", f"Y {said}", *(["C $1$"] if kind == "heatmap" else [])]:
        assert text in drawn, "drawn as it is"
    assert "mathdefault" not in drawn, "no number of an axis is the source of a formula"
