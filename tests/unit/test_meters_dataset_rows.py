"""Counting rows of data sets: against plain loops over the rows, and what happens where the data is not at hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from replica.assets import manifest
from replica.assets.at_hand import presence
from replica.assets.rows import Rows
from replica.claims.compare import compare
from replica.claims.evidence import measurement_settings
from replica.config import load_project
from replica.config.hub_lock import HubLock, Locked, write_lock
from replica.config.schema import Measurement
from replica.errors import ConfigError
from replica.measure.structural import measure, measure_paper
from replica.meters.dataset_rows import RowsOptions, count_rows
from replica.meters.registry import DATA_METERS, meters_of, parse_meters
from replica.plan.outputs import fingerprint
from replica.plan.requests import check_claims
from replica.seals import write_sealed
from tests.unit.assets_helpers import hash_rows

from .small_project import DATASETS, PAPER, paper, write_project

SCHEMA = pa.schema(
    {
        "title": pa.string(),
        "answers": pa.struct({"text": pa.list_(pa.string())}),
        "speaker": pa.string(),
        "seconds": pa.float64(),
        "votes": pa.int64(),
    }
)
TRAIN = [
    {"title": "a b", "answers": {"text": ["x"]}, "speaker": "m", "seconds": 0.1, "votes": 3},
    {"title": "a b", "answers": {"text": []}, "speaker": "f", "seconds": 0.2, "votes": None},
    {"title": "b", "answers": {"text": ["y", "z"]}, "speaker": "f", "seconds": 0.3, "votes": 4},
    {"title": None, "answers": {"text": []}, "speaker": "m", "seconds": None, "votes": 5},
]
TEST = [{"title": "b", "answers": {"text": ["y"]}, "speaker": "n.n", "seconds": 1.5, "votes": 1}]


def counted(counts, **splits):
    made = {name: [Rows.of(rows, SCHEMA)] for name, rows in splits.items()}
    return count_rows(made, RowsOptions(counts=counts))


def test_counts_are_those_of_a_loop_over_the_rows():
    found = counted(
        {
            "titles": {"distinct": "title"},
            "pairs": {"distinct": ["title", "speaker"]},
            "words": {"distinct": "title", "each": "word"},
            "answered": {"where": {"answers.text": {"empty": False}}},
            "open": {"where": {"answers.text": {"empty": True}, "speaker": ["m", "x"]}},
            "seconds": {"sum": "seconds", "where": {"speaker": "f"}},
            "votes": {"sum": "votes"},
            "speakers": {"by": "speaker"},
            "nested": {"by": ["speaker", "votes"]},
        },
        train=TRAIN,
        test=TEST,
    )
    assert found["train"] == {
        "rows": 4,
        "titles": len({row["title"] for row in TRAIN}),  # None is a value
        "pairs": len({(row["title"], row["speaker"]) for row in TRAIN}),
        "words": len({word for row in TRAIN for word in (row["title"] or "").split()}),
        "answered": sum(bool(row["answers"]["text"]) for row in TRAIN),
        "open": 1,
        "seconds": pytest.approx(0.5, abs=1e-15),
        "votes": 12,
        "speakers": {"f": 2, "m": 2},
        "nested": {"f": {"4": 1, "null": 1}, "m": {"3": 1, "5": 1}},
    }
    both = TRAIN + TEST
    assert found["all"]["rows"] == 5 and found["all"]["titles"] == len({row["title"] for row in both})
    assert found["all"]["speakers"] == {"f": 2, "m": 2, "n.n": 1}


def test_parts_of_a_split_are_one_and_many_rows_stream():
    parts = [
        [{**TRAIN[0], "title": str(i), "seconds": 0.1} for i in range(start, start + 9_000)] for start in (0, 5_000)
    ]
    options = RowsOptions(counts={"titles": {"distinct": "title"}, "seconds": {"sum": "seconds"}})
    found = count_rows({"train": [Rows.of(part, SCHEMA) for part in parts]}, options)["train"]
    assert found == {"rows": 18_000, "titles": 14_000, "seconds": pytest.approx(1_800, abs=1e-9)}


@pytest.mark.parametrize(
    "counts, message",
    [
        ({"n": {"distinct": "titel"}}, "split 'train' has no column 'titel'; did you mean 'title'?"),
        ({"n": {"where": {"answers.txt": {"empty": True}}}}, "did you mean 'answers.text'?"),
        ({"n": {"sum": "speaker"}}, "`sum` of speaker meets 'm', which is no number"),
    ],
)
def test_a_column_that_is_not_there_is_said(counts, message):
    with pytest.raises(ConfigError, match="rows") as caught:
        counted(counts, train=TRAIN)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "counts, message",
    [
        ({"n": {"distinct": "a", "sum": "b"}}, "at most one of distinct, sum and by"),
        ({"n": {"each": "word"}}, "goes with `distinct`"),
        ({"rows": {}}, "is always counted"),
        ({"n": {"wher": {}}}, "did you mean 'where'?"),
    ],
)
def test_impossible_counts_are_one_line(counts, message):
    with pytest.raises(ConfigError) as caught:
        parse_meters({"rows": {"counts": counts}}, "meters", DATA_METERS)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_by_a_column_of_texts_is_refused():
    with pytest.raises(ConfigError, match="more than 1000 groups"):
        counted({"n": {"by": "title"}}, train=[{**TRAIN[0], "title": str(i)} for i in range(1001)])


@pytest.mark.parametrize(
    "given, message",
    [
        ({"dataset": "words", "meters": {"rows": {}, "flops": {}}}, "the meter 'flops' is of a model"),
        ({"model": "base", "meters": {"rows": {}}}, "the meter 'rows' is of a data set; name one with `dataset:`"),
        ({"dataset": "words", "meters": {}}, "measured by the meter 'rows'"),
    ],
)
def test_meters_go_with_what_is_measured(given, message):
    with pytest.raises(ConfigError) as caught:
        meters_of(Measurement(**given))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "given", [{}, {"model": "m", "dataset": "d"}, {"dataset": "d", "head": "mlm"}, {"dataset": []}]
)
def test_a_measurement_is_of_a_model_or_of_data_sets(given):
    with pytest.raises(ValueError, match=r"exactly one|goes with a model|empty list"):
        Measurement(meters={}, **given)


# --- where the data is not at hand -------------------------------------------------------------------------------------


def project_of(tmp_path, rows, train=None, revision="0" * 40):
    """A paper that counts a data set of a mirror's, with splits train (`rows`, pinned to `train`) and test (not in the mirror)."""
    measured = {split: {"dataset": "counted", "meters": {"rows": {"splits": [split]}}} for split in ("train", "test")}
    claim = {
        **PAPER["claims"][0],
        "id": "size",
        "kind": "size",
        "evidence": "structural",
        "value": {"train": 4, "test": 9},
    }
    claim |= {"metric": "rows", "ours": "{0}.rows.{0}.rows"}
    del claim["not_run"], claim["trend"]
    root = write_project(tmp_path / "checkout", paper(measurements=measured, claims=[*PAPER["claims"], claim]))
    entry = {
        **DATASETS["datasets"]["words"],
        "sources": {"hub": {"repo": "group/counted", "config": "default"}},
    }
    entry["splits"] = {"train": train, "test": None}
    content = {"datasets": {**DATASETS["datasets"], "counted": entry}}
    (root / "config" / "datasets.yaml").write_text(json.dumps(content), encoding="utf-8")
    if revision is not None:
        write_lock(root, HubLock(datasets={"counted": Locked(repo="group/counted", revision=revision)}))
    folder = tmp_path / "mirror" / "datasets" / "group" / "counted" / "default"
    folder.mkdir(parents=True)
    (folder.parent / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: default/train-*\n---\n",
        encoding="utf-8",
    )
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), folder / "train-00000-of-00001.parquet")
    return root


def rows_of(root, results):
    project = load_project(root)
    settings = measurement_settings(project, project.paper("one"))
    write_sealed(results / "structural" / "one.json", measure_paper(project, "one"), settings=settings)
    found = compare(project, "one", "laptop", results, {"laptop": {}}, set())
    return {row["claim"]: row for row in found if row["claim"].startswith("size")}


def test_a_split_that_is_not_here_is_not_run_and_the_others_are_counted(tmp_path, monkeypatch):
    root = project_of(tmp_path, TRAIN)
    monkeypatch.setenv("REPLICA_MIRROR", str(tmp_path / "mirror"))
    rows = rows_of(root, tmp_path / "results")
    assert (rows["size:train"]["our_value"], rows["size:train"]["verdict"]) == (4, "match")
    assert rows["size:test"]["verdict"] == "not-run" and rows["size:test"]["our_value"] is None
    reason = rows["size:test"]["reason"]
    assert "not at hand" in reason and "no split 'test'" in reason and "assets/datasets/counted/manifest.json" in reason


def test_without_a_mirror_everything_counted_is_not_run_and_counted_again_when_it_comes(tmp_path, monkeypatch):
    root = project_of(tmp_path, TRAIN)
    monkeypatch.delenv("REPLICA_MIRROR", raising=False)
    project = load_project(root)
    before = fingerprint(project.paper("one"), "measurements", project)
    rows = rows_of(root, tmp_path / "results")
    assert {row["verdict"] for row in rows.values()} == {"not-run"}
    assert "REPLICA_MIRROR is not set" in rows["size:train"]["reason"]
    unpinned = rows_of(project_of(tmp_path / "unpinned", TRAIN, revision=None), tmp_path / "more")
    assert "group/counted has no pinned revision" in unpinned["size:train"]["reason"]
    monkeypatch.setenv("REPLICA_MIRROR", str(tmp_path / "mirror"))
    assert fingerprint(project.paper("one"), "measurements", project) != before


def test_part_of_a_split_is_never_taken_for_it(tmp_path, monkeypatch):
    root = project_of(tmp_path, TRAIN)
    path = "datasets/group/counted/default/train-00000-of-00001.parquet"
    fact = {"path": path, "rows": 4, "official_rows": 40, "complete": False}
    (tmp_path / "mirror" / "MANIFEST.json").write_text(json.dumps({"splits": [fact]}), encoding="utf-8")
    monkeypatch.setenv("REPLICA_MIRROR", str(tmp_path / "mirror"))
    row = rows_of(root, tmp_path / "results")["size:train"]
    assert row["verdict"] == "not-run" and "not complete: 4 of 40 rows" in row["reason"]


def test_rows_that_the_registry_does_not_pin_are_not_counted(tmp_path, monkeypatch):
    right = hash_rows(TRAIN)
    monkeypatch.setenv("REPLICA_MIRROR", str(tmp_path / "a" / "mirror"))
    root = project_of(tmp_path / "a", TRAIN, train={"rows": right.rows, "sha256": right.sha256})
    assert rows_of(root, tmp_path / "ra")["size:train"]["verdict"] == "match"
    monkeypatch.setenv("REPLICA_MIRROR", str(tmp_path / "b" / "mirror"))
    root = project_of(tmp_path / "b", TRAIN[:3], train={"rows": right.rows, "sha256": right.sha256})
    row = rows_of(root, tmp_path / "rb")["size:train"]
    assert row["verdict"] == "not-run" and "other rows than the registry pins: 3 rows" in row["reason"]


def test_a_retrieved_folder_is_counted_before_any_source(tmp_path, monkeypatch):
    monkeypatch.delenv("REPLICA_MIRROR", raising=False)
    root = project_of(tmp_path, TRAIN)
    project = load_project(root)
    absent = presence(project, "counted")
    folder = root / "assets" / "datasets" / "counted"
    folder.mkdir(parents=True)
    facts = {}
    for split, rows in (("train", TRAIN), ("test", TEST)):
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), folder / f"{split}.parquet")
        content = hash_rows(rows)
        facts[split] = {"rows": content.rows, "sha256": content.sha256}
    manifest.write(folder, splits=facts)
    assert presence(project, "counted") != absent
    found = measure(project, project.paper("one").measurements["test"])
    assert found["rows"]["test"]["rows"] == 1 and found["assumptions"]["source"] == "retrieved counted"
    assert found["assumptions"]["licence"] == "MIT"


def test_a_generated_data_set_is_counted_without_anything():
    project = load_project(Path(__file__).parents[2])
    found = measure(
        project, Measurement(dataset="smoke-sentiment", meters={"rows": {"counts": {"label": {"by": "label"}}}})
    )
    assert {split: found["rows"][split]["rows"] for split in ("train", "validation", "test")} == {
        "train": 1200,
        "validation": 200,
        "test": 200,
    }
    assert sum(found["rows"]["all"]["label"].values()) == 1600


@pytest.mark.parametrize(
    "dataset, split, message",
    [
        ("countd", "train", "measurements.train: unknown data set 'countd'; did you mean 'counted'?"),
        ("counted", "trian", "data set 'counted' has no split 'trian'; did you mean 'train'?"),
    ],
)
def test_unknown_data_sets_and_splits_are_found_in_the_plan(tmp_path, dataset, split, message):
    project = load_project(project_of(tmp_path, TRAIN))
    item = Measurement(dataset=dataset, meters={"rows": {"splits": [split]}})
    changed = project.paper("one").model_copy(update={"measurements": {"train": item, "test": item}, "claims": []})
    with pytest.raises(ConfigError) as caught:
        check_claims(project, changed, {})
    assert message in str(caught.value)


def test_counting_is_configured_without_importing_torch_or_pyarrow():
    code = (
        "import sys, replica.plan.outputs, replica.meters.registry as r;"
        "r.parse_meters({'rows': {}}, 'm', r.DATA_METERS); sys.exit('torch' in sys.modules or 'pyarrow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.mirror
def test_the_counts_of_released_files_are_those_of_their_authors():
    project = load_project(Path(__file__).parents[2], papers=["squad_tr"])
    found = measure(project, project.paper("squad_tr").measurements["dev"])["rows"]["validation"]
    # README of SQuAD-TR: 35 articles, 1204 paragraphs, 2346 + 5945 = 8291 questions
    assert found == {"rows": 8291, "articles": 35, "paragraphs": 1204, "answerable": 2346, "unanswerable": 5945}
