"""Every claim becomes rows, measured or not, and the ledger of them comes out the same every time."""

from __future__ import annotations

import json
import shutil

import pytest

from replica.claims.compare import COLUMNS, _idle, compare, report
from replica.claims.evidence import Evidence
from replica.claims.ledger import merge, read_claims, read_ledger, to_csv, to_json
from replica.config.schema import Trend
from replica.errors import ConfigError, ResultError
from replica.files import write_json
from replica.plan import build_plan
from tests.unit.synthetic_checkout import CLAIMS, STRUCTURAL, TREND, claim, fill, make, store, store_metrics


@pytest.fixture
def checkout(tmp_path):
    return make(tmp_path)


def ids_of(project):
    """Run ids by section and name, each section planned at the scale it belongs to."""
    return {
        name: build_plan(project, name).named["toy"][name]
        for name in ("laptop", "paper")
        if project.paper("toy").runs.get(name)
    }


def rows_at(project, scale, ids, requested=None):
    rows = compare(project, "toy", scale, project.root / "results", ids, requested)
    return {row["claim"]: row for row in rows}


def measured(project, scale):
    ids = ids_of(project)
    fill(project.root / "results", ids, scale)
    return rows_at(project, scale, ids)


def test_every_claim_has_its_rows_before_anything_ran(checkout):
    rows = rows_at(checkout, "laptop", ids_of(checkout))
    assert {name.split(":")[0] for name in rows} == {entry["id"] for entry in CLAIMS}
    assert {row["verdict"] for row in rows.values()} == {"not-run", "blocked"}
    assert all(row["reason"] and row["our_value"] is None for row in rows.values())
    assert all(tuple(row) == COLUMNS for row in rows.values())
    assert "snakemake structural" in rows["toy-total"]["reason"]
    assert "scale=paper papers=toy" in rows["toy-scores:A.0"]["reason"]


def test_structural_rows_are_compared_with_the_paper(checkout):
    rows = measured(checkout, "laptop")
    total = rows["toy-total"]
    assert (total["our_value"], total["verdict"], total["tolerance"]) == (1000, "match", "± 1 %")
    # 47 / 1000 = 0.047: equal to the last printed digit
    assert (rows["toy-share"]["our_value"], rows["toy-share"]["verdict"]) == (0.047, "match")
    # paper 1004 ± 5, ours 1000; paper 300 ± 5, ours 400; paper 20 ± 5, ours 15 (boundary); paper 10 ± 5, ours 15 (boundary)
    sizes = {name: row for name, row in rows.items() if name.startswith("toy-sizes:")}
    assert {name.removeprefix("toy-sizes:"): (row["our_value"], row["verdict"]) for name, row in sizes.items()} == {
        "toy-base.total": (1000, "match"),
        "toy-base.trainable.0": (15, "match"),
        "toy-base.trainable.1": (15, "match"),
        "6x768.total": (400, "worse"),
        "6x768.trainable.0": (47, "worse"),
    }
    assert rows["toy-sizes:6x768.total"]["reason"] == "ours is 33.3 % above: ours counts the pooler & more"
    assert rows["toy-wrong"]["verdict"] == "paper-inconsistent"
    assert (rows["toy-order"]["paper_value"], rows["toy-order"]["verdict"]) == ("base >= small", "match")


def test_blocked_not_run_and_reference_say_why(checkout):
    rows = measured(checkout, "laptop")
    assert (rows["toy-blocked"]["verdict"], rows["toy-blocked"]["reason"]) == (
        "blocked",
        "the data were never published",
    )
    assert (rows["toy-none"]["verdict"], rows["toy-none"]["reason"]) == ("not-run", "needs a P100")
    assert rows["toy-rival"]["reason"].startswith("reference, not the paper's own claim; ")
    assert rows["toy-scores:B"]["reason"] == "no measurement is defined for it"


def test_trend_is_the_interval_of_paired_effects_against_its_margin(checkout):
    row = measured(checkout, "laptop")["toy-trend:trend"]
    # effects 2, 3, 4 points: 3 ± 4.302653 / sqrt(3) = [0.515862, 5.48414], which holds the margin 1
    assert (row["our_value"], row["low"], row["high"], row["seeds"]) == (3, 0.515862, 5.48414, 3)
    assert (row["evidence"], row["verdict"], row["paper_value"]) == ("trend", "inconclusive", None)
    assert len(row["runs"].split()) == 2


def test_trend_is_reproduced_or_contradicted_by_its_margin(tmp_path):
    for margin, direction, verdict in [
        (0.5, "above", "reproduced"),
        (0.5, "below", "contradicted"),
        (6, "below", "reproduced"),
    ]:
        trend = {**TREND, "margin": margin, "direction": direction}
        project = make(tmp_path, [claim("t", value=None, evidence="full", trend=trend)], tables=[], figures=[])
        assert measured(project, "laptop")["t:trend"]["verdict"] == verdict


def test_an_arm_that_learned_nothing_makes_its_trend_inconclusive(tmp_path):
    # without a floor this trend is reproduced (interval [0.516, 5.48] above 0.5); its weaker arm's mean is below 99
    for floor, verdict in [(None, "reproduced"), (0.1, "reproduced"), (99.0, "inconclusive")]:
        trend = {**TREND, "margin": 0.5, "floor": floor}
        project = make(tmp_path, [claim("t", value=None, evidence="full", trend=trend)], tables=[], figures=[])
        row = measured(project, "laptop")["t:trend"]
        assert row["verdict"] == verdict
    assert "learned nothing (floor 99)" in row["reason"]


def test_a_floor_is_for_scores_and_not_for_what_a_method_reports():
    shows = {"private": "runs.a.t.accuracy", "epsilon": "runs.a.reported.private-gradients.epsilon"}
    trend = Trend(**{**TREND, "floor": 56.0, "shows": shows})
    assert _idle(trend, {"private": {"mean": 70.0}, "epsilon": {"mean": 8.0}}) == []
    assert _idle(trend, {"private": {"mean": 55.0}, "epsilon": {"mean": 8.0}}) == ["private"]


def test_trend_details_hold_the_values_of_each_seed(checkout):
    ids = ids_of(checkout)
    fill(checkout.root / "results", ids)
    detail = report(checkout, "toy", "laptop", checkout.root / "results", ids)["trends"]["toy-trend"]
    assert detail["effects"] == pytest.approx([2, 3, 4])
    assert detail["arms"]["plain"] == {"mean": 84, "values": [82, 84, 86]}


def test_full_rows_aggregate_seeds_and_see_noise(checkout):
    rows = measured(checkout, "paper")
    first, second = rows["toy-scores:A.0"], rows["toy-scores:A.1"]
    # accuracy 90, 92: mean 91, s / sqrt(2) = 1, t(0.975, 1) = 12.7062; the paper's 90.5 is half a point away: match
    assert (first["our_value"], first["low"], first["high"], first["seeds"]) == (91, 78.2938, 103.706, 2)
    assert first["verdict"] == "match"
    # F1 78, 79: mean 78.5, two points below 80.5, inside 78.5 ± 6.35
    assert (second["our_value"], second["verdict"]) == (78.5, "within-noise")
    assert "laptop scale" not in rows["toy-total"]["reason"] and rows["toy-total"]["verdict"] == "match"
    assert "scale=laptop" in rows["toy-trend:trend"]["reason"]


def test_one_seed_has_the_interval_over_examples(tmp_path):
    entry = claim(
        "one", value=0.9, ours="runs.big.toy-task.accuracy", evidence="full", tolerance={"digits": 3, "reason": "r"}
    )
    project = make(tmp_path, [entry], tables=[], figures=[], seeds={"paper": 1})
    ids = ids_of(project)
    store_metrics(tmp_path / "results", "paper", ids["paper"]["big"], 0, accuracy=0.905)
    row = rows_at(project, "paper", ids)["one"]
    assert (row["our_value"], row["low"], row["high"], row["verdict"]) == (0.905, 0.895, 0.915, "within-noise")


def test_median_and_maximum_are_taken_over_seeds(tmp_path):
    base = {"value": 4, "ours": "runs.big.toy-task.accuracy", "evidence": "full"}
    entries = [claim(how, aggregate=how, **base) for how in ("mean", "median", "max")]
    project = make(tmp_path, entries, tables=[], figures=[], seeds={"paper": 3})
    ids = ids_of(project)
    for seed, value in enumerate((1.0, 2.0, 9.0)):
        store_metrics(tmp_path / "results", "paper", ids["paper"]["big"], seed, accuracy=value)
    rows = rows_at(project, "paper", ids)
    assert [rows[how]["our_value"] for how in ("mean", "median", "max")] == [4, 2, 9]


def test_unit_scale_divides_value_and_interval(tmp_path):
    project = make(
        tmp_path,
        [claim("k", value=1.0, unit="k", unit_scale=1000, ours="toy-base.parameters.total")],
        tables=[],
        figures=[],
    )
    assert measured(project, "laptop")["k"]["our_value"] == 1


def test_a_deleted_measurement_turns_into_not_run(checkout):
    results, ids = checkout.root / "results", ids_of(checkout)
    fill(results, ids)
    gone = results / "laptop" / "runs" / ids["laptop"]["small-a"] / "seed1" / "metrics.json"
    gone.unlink()
    row = rows_at(checkout, "laptop", ids)["toy-trend:trend"]
    assert (row["verdict"], row["our_value"], row["low"]) == ("not-run", None, None)
    assert str(gone.relative_to(checkout.root)) in row["reason"]
    (results / "structural" / "toy.json").unlink()
    assert rows_at(checkout, "laptop", ids)["toy-total"]["verdict"] == "not-run"


def test_a_run_that_nobody_asked_for_says_so(checkout):
    ids = ids_of(checkout)
    fill(checkout.root / "results", ids)
    wanted = {ids["laptop"]["plain"], ids["laptop"]["small-a"]}
    assert "papers=toy claims=toy-slow" in rows_at(checkout, "laptop", ids, wanted)["toy-slow:trend"]["reason"]


def test_smoke_shows_values_and_gives_no_verdict(checkout):
    results, ids = checkout.root / "results", ids_of(checkout)
    store(results / "structural" / "toy.json", STRUCTURAL)
    for run in (ids["laptop"]["plain"], ids["laptop"]["small-a"], ids["paper"]["big"]):
        for seed in range(2):
            store_metrics(results, "smoke", run, seed, accuracy=0.5)
    rows = rows_at(checkout, "smoke", ids)
    for name in ("toy-trend:trend", "toy-scores:A.0", "toy-scores:A.1"):  # f1 is taken from the stand-in's own metric
        assert rows[name]["our_value"] is not None
        assert (rows[name]["verdict"], "plumbing" in rows[name]["reason"]) == ("not-run", True)
    assert rows["toy-total"]["verdict"] == "match"


def test_a_single_run_serves_every_seed(tmp_path):
    runs = {
        "laptop": {
            "plain": {"stage": "adapt", "model": "toy", "task": "toy-task", "train": {"steps": 10}},
            "shared": {"stage": "adapt", "model": "toy", "task": "toy-task", "train": {"steps": 9}, "seeds": "one"},
        }
    }
    effect = "runs.plain.toy-task.accuracy - runs.shared.toy-task.accuracy"
    entry = claim("t", value=None, evidence="full", trend={**TREND, "effect": effect, "shows": {}, "margin": 0.0})
    project = make(tmp_path, [entry], tables=[], figures=[], runs=runs)
    ids = ids_of(project)
    for seed, value in enumerate((0.7, 0.8, 0.9)):
        store_metrics(tmp_path / "results", "laptop", ids["laptop"]["plain"], seed, accuracy=value)
    store_metrics(tmp_path / "results", "laptop", ids["laptop"]["shared"], 0, accuracy=0.5)
    row = rows_at(project, "laptop", ids)["t:trend"]
    assert (row["our_value"], row["seeds"]) == (0.3, 3)


@pytest.mark.parametrize(
    ("ours", "words"),
    [
        ("toy-bse.parameters.total", "did you mean 'toy-base'"),
        ("toy-base.parameters.totl", "did you mean 'toy-base.parameters.total'"),
        ("toy-base.parameters.total +", "is not arithmetic"),
    ],
)
def test_a_typo_names_file_claim_and_the_nearest(tmp_path, ours, words):
    project = make(tmp_path, [claim("typo", value=1, ours=ours)], tables=[], figures=[])
    store(tmp_path / "results" / "structural" / "toy.json", STRUCTURAL)
    with pytest.raises(ConfigError, match=rf"config/papers/toy/paper.yaml: claims.typo: .*{words}"):
        rows_at(project, "laptop", {})


def test_a_meter_without_a_number_is_not_run(tmp_path):
    project = make(tmp_path, [claim("none", value=1, ours="toy-base.parameters.broken")], tables=[], figures=[])
    store(tmp_path / "results" / "structural" / "toy.json", STRUCTURAL)
    assert "gave no number" in rows_at(project, "laptop", {})["none"]["reason"]


def test_ledger_is_sorted_complete_and_the_same_twice(checkout, tmp_path):
    ids = ids_of(checkout)
    fill(checkout.root / "results", ids)
    written = []
    for turn in range(2):
        found = report(checkout, "toy", "laptop", checkout.root / "results", ids)
        store(tmp_path / f"{turn}.json", found)
        rows = merge([read_claims(tmp_path / f"{turn}.json")])
        written.append((to_csv(rows), to_json(rows)))
    assert written[0] == written[1]
    lines = written[0][0].splitlines()
    assert lines[0] == ",".join(COLUMNS)
    assert json.loads(written[0][1])["rows"] == rows and len(rows) == len(found["rows"])
    assert [row["evidence"] for row in rows] == sorted(
        (row["evidence"] for row in rows), key=["structural", "trend", "full"].index
    )


def test_the_same_claim_twice_is_an_error(checkout):
    found = report(checkout, "toy", "laptop", checkout.root / "results", ids_of(checkout))
    with pytest.raises(ConfigError, match="twice"):
        merge([found, found])


def test_results_can_move_without_a_trace_in_the_numbers(checkout, tmp_path):
    ids = ids_of(checkout)
    fill(checkout.root / "results", ids)
    before = compare(checkout, "toy", "laptop", checkout.root / "results", ids)
    shutil.copytree(checkout.root / "results", tmp_path / "moved")
    after = compare(checkout, "toy", "laptop", tmp_path / "moved", ids)
    assert [row["our_value"] for row in before] == [row["our_value"] for row in after]


def test_a_metric_without_a_number_is_not_run_with_its_reason(checkout):
    ids = ids_of(checkout)
    results = checkout.root / "results"
    fill(results, ids)
    entry = {"value": None, "low": None, "high": None, "n": 9, "reason": "accuracy on toy-task came out as nan"}
    path = results / "laptop" / "runs" / ids["laptop"]["plain"] / "seed1" / "metrics.json"
    store(path, {"tasks": {"toy-task": {"accuracy": entry, "f1": entry}}})
    row = rows_at(checkout, "laptop", ids)["toy-trend:trend"]
    assert (row["verdict"], row["our_value"]) == ("not-run", None)
    assert row["reason"] == "accuracy on toy-task came out as nan"


@pytest.mark.parametrize(
    "text, message",
    [
        ('{"tasks": {"toy-ta', "corrupt, not JSON"),
        ('{"tasks": {"toy-task": {"accuracy": {"value": NaN}}}}', "NaN is not a number"),
        ('["tasks"]', "has no seal"),
        ('{"tasks": {"toy-task": {"accuracy": {"value": 1.0}}}}', "has no seal"),
    ],
)
def test_a_corrupt_result_is_named_with_what_to_do(checkout, text, message):
    ids = ids_of(checkout)
    fill(checkout.root / "results", ids)
    path = checkout.root / "results" / "laptop" / "runs" / ids["laptop"]["plain"] / "seed1" / "metrics.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ResultError) as caught:
        rows_at(checkout, "laptop", ids)
    for part in (str(path), message, "remove the file and run `snakemake` again"):
        assert part in str(caught.value)


def test_missing_claims_or_ledger_is_one_message(tmp_path):
    with pytest.raises(ResultError, match=r"claims\.json: no such file; `scripts/compare.py` writes"):
        read_claims(tmp_path / "claims.json")
    with pytest.raises(ResultError, match=r"ledger\.json: no such file; make it with `make reproduce`"):
        read_ledger(tmp_path / "ledger.json")


def test_numbers_that_are_not_finite_are_not_written(tmp_path):
    with pytest.raises(ResultError, match=r"m\.json: a\.b\.1 would be inf"):
        write_json(tmp_path / "m.json", {"a": {"b": [1.0, float("inf")]}})
    assert not list(tmp_path.iterdir())


def test_a_trend_reads_what_a_method_reports_of_each_seed(tmp_path):
    trend = {**TREND, "effect": "runs.small-a.reported.deft.density - runs.plain.reported.deft.density", "shows": {}}
    trend.pop("floor", None)
    project = make(tmp_path, claims=[claim("dense", trend=trend)], measurements={}, tables=[], figures=[])
    ids = {"laptop": {"small-a": "run-a", "plain": "run-p"}}
    for run, density in (("run-a", 0.25), ("run-p", 0.5)):
        for seed in range(3):
            path = store_metrics(project.root / "results", "laptop", run, seed, accuracy=50.0)
            found = json.loads(path.read_text(encoding="utf-8"))
            store(path, found | {"reported": {"deft": {"density": density + seed / 100, "stated": "text"}}})
    evidence = Evidence(project, project.paper("toy"), "laptop", project.root / "results", ids)
    assert evidence._run_value("run-a", "reported.deft.density", 2) == (0.27, None)
    with pytest.raises(ConfigError, match=r"no reported number 'deft\.dens'.*deft\.density"):
        evidence._run_value("run-a", "reported.deft.dens", 0)
