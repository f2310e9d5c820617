"""A paper's folder: sets, groups of claims, CSV tables and templates, and errors that name file and key."""

from __future__ import annotations

import pytest
import yaml

from replica.config import load_project
from replica.config.paper_folder import read_paper
from replica.errors import ConfigError

from .small_project import paper, write_project

FULL = {
    "id": "c", "kind": "accuracy", "statement": "s", "evidence": "full", "metric": "accuracy", "where": "Table 1", "source": "text",
    "confidence": "high",
}  # fmt: skip
TABLE = """\
size,method,run:,SQuAD2,MNLI-m,avg
task:,,,squad-v2,glue-mnli,
metric:,,,squad_f1,accuracy,
6x384,MiniLM,minilm,72.4,82.2,77.3
6x384,MLM-KD,,67.9,79.0,
3x384,MiniLM,minilm,66.2,78,null
"""


def _read(folder, claims, table=TABLE, **changes):
    folder = folder / "one"
    folder.mkdir(exist_ok=True)
    (folder / "table.csv").write_text(table, encoding="utf-8")
    (folder / "paper.yaml").write_text(
        yaml.safe_dump(paper(claims=claims, tables=[], figures=[], **changes)), encoding="utf-8"
    )
    return read_paper(folder)


def _claim(folder, table=TABLE, **changes):
    return _read(folder, [{**FULL, **changes}], table).claims[0]


def _csv(**changes):
    return {"file": "table.csv", "keys": ["size", "method"], **changes}


def test_claims_of_a_group_have_its_keys_unless_they_have_their_own(tmp_path):
    shared = {key: value for key, value in FULL.items() if key not in ("id", "statement")}
    claims = [
        {
            "all": {**shared, "unit": "%", "reference": True},
            "claims": [
                {"id": "a", "statement": "first"},
                {"id": "b", "statement": "second", "unit": None, "where": "Table 2"},
            ],
        },
        {**FULL, "id": "c"},
    ]
    one, two, three = _read(tmp_path, claims).claims
    assert (one.unit, one.where, one.reference) == ("%", "Table 1", True)
    assert (two.unit, two.where, two.reference) == (None, "Table 2", True)
    assert three.reference is False


def test_a_group_shares_keys_of_trends_among_claims_that_have_one(tmp_path):
    trend = {"dataset": "words", "metric": "accuracy", "protocol": "p"}
    own = {"statement": "t", "effect": "runs.plain.words.accuracy"}
    shared = {key: value for key, value in FULL.items() if key != "id"}
    claims = [{"all": {**shared, "trend": trend}, "claims": [{"id": "a", "trend": own}, {"id": "b"}]}]
    one, two = _read(tmp_path, claims).claims
    assert one.trend is not None and one.trend.protocol == "p" and two.trend is None


def test_a_table_gives_the_value_without_its_empty_cells(tmp_path):
    assert _claim(tmp_path, csv=_csv()).value == {
        "6x384": {"MiniLM": {"SQuAD2": 72.4, "MNLI-m": 82.2, "avg": 77.3}, "MLM-KD": {"SQuAD2": 67.9, "MNLI-m": 79.0}},
        "3x384": {"MiniLM": {"SQuAD2": 66.2, "MNLI-m": 78, "avg": None}},
    }


def test_a_list_keeps_a_level_and_a_name_drops_it(tmp_path):
    flat = "method,F1,EM\na,1,2\nb,3,4\n"
    file = {"file": "table.csv"}
    assert _claim(tmp_path, flat, csv={**file, "rows": ["b"]}).value == {"b": {"F1": 3, "EM": 4}}
    assert _claim(tmp_path, flat, csv={**file, "rows": "b"}).value == {"F1": 3, "EM": 4}
    assert _claim(tmp_path, flat, csv={**file, "columns": ["EM"]}).value == {"a": {"EM": 2}, "b": {"EM": 4}}
    assert _claim(tmp_path, flat, csv={**file, "columns": "EM"}).value == {"a": 2, "b": 4}
    assert _claim(tmp_path, flat, csv={**file, "rows": "a", "columns": "EM"}).value == 2


def test_a_template_is_filled_for_every_cell_that_has_all_its_words(tmp_path):
    ours = "runs.{run}-{size}-on-{task}.{task}.{metric}"
    assert _claim(tmp_path, csv=_csv(), ours=ours).ours == {
        size: {
            "MiniLM": {
                "SQuAD2": f"runs.minilm-{size}-on-squad-v2.squad-v2.squad_f1",
                "MNLI-m": f"runs.minilm-{size}-on-glue-mnli.glue-mnli.accuracy",
            }
        }
        for size in ("6x384", "3x384")
    }


def test_each_holds_for_keys_without_an_entry_of_their_own(tmp_path):
    ours = {"each": {"each": {"each": "runs.{run}.{task}.{metric}", "avg": "mean(runs.{run}.{score})"}}}
    ours = _read(tmp_path, [{**FULL, "csv": _csv(), "ours": ours}], sets={"score": ["a.f1", "b.em"]}).claims[0].ours
    assert ours["6x384"]["MiniLM"]["avg"] == "mean(runs.minilm.a.f1, runs.minilm.b.em)"
    value = {"a": {"x": 1, "y": 2}, "b": {"x": 3, "y": 4}}
    ours = {"each": {"each": "{0}.{1}", "y": "other"}, "b": {"x": "own"}}
    assert _claim(tmp_path, value=value, ours=ours).ours == {
        "a": {"x": "{0}.{1}", "y": "other"},
        "b": {"x": "own", "y": "other"},
    }


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"csv": {"file": "tabel.csv"}}, "claims.c: csv: tabel.csv: no such file; did you mean 'table.csv'?"),
        ({"csv": {"flie": "table.csv"}}, "unknown key 'flie'; did you mean 'file'"),
        ({"csv": _csv(rows="6x348")}, "claims.c: csv: table.csv: row: unknown '6x348'; did you mean '6x384'?"),
        ({"csv": _csv(columns=["SQuAD"])}, "claims.c: csv: table.csv: column: unknown 'SQuAD'; did you mean 'SQuAD2'?"),
        ({"csv": _csv(keys=["method"])}, "claims.c: csv: table.csv: the first columns are size, not method"),
        ({"csv": _csv(), "value": 1}, "claims.c: give `value` or `csv`, not both"),
        ({"csv": _csv(), "ours": "runs.{rnu}.a.b"}, "'{rnu}' is neither a set nor a word of the table; did you mean 'run'"),
        ({"csv": _csv(), "ours": {"each": {"each": {"mean": "1"}}}}, "ours.6x384.each: no row has 'mean'"),
        ({"sorce": "x"}, "claims.c: unknown key 'sorce'; did you mean 'source'"),
    ],
)  # fmt: skip
def test_a_wrong_key_file_row_or_column_is_one_line(tmp_path, changes, message):
    with pytest.raises(ConfigError) as caught:
        _claim(tmp_path, **changes)
    assert str(caught.value).startswith("config/papers/one/paper.yaml: ") and message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "table, message",
    [
        ("a,b\nx,1,2\n", "table.csv: line 2 has 3 cells, the first line 2"),
        ("a,b\nx,1\nx,2\n", "table.csv: line 3: there are two rows 'x'"),
        ("a,{s}:,b\nx,w,1\n".replace("{s}", "tasks"), "table.csv: 'tasks' is also a set of the paper"),
    ],
)
def test_a_broken_table_names_its_line(tmp_path, table, message):
    with pytest.raises(ConfigError, match=message):
        _read(tmp_path, [{**FULL, "csv": {"file": "table.csv"}}], table, sets={"tasks": ["a"]})


@pytest.mark.parametrize(
    "claims, message",
    [
        ([{"all": {"sorce": "x"}, "claims": [FULL]}], "claims.0.all: unknown key 'sorce'; did you mean 'source'"),
        ([{"all": {}, "claim": [FULL]}], "claims.0: "),
        ([{"all": {"confidence": "sure"}, "claims": [FULL]}], "claims.0.all: confidence: "),
        ([{"all": {}, "claims": ["a"]}], "claims.0.claims.0: expected a mapping, got str"),
        (["a"], "claims.0: expected a mapping, got str"),
    ],
)
def test_a_wrong_group_is_one_line(tmp_path, claims, message):
    with pytest.raises(ConfigError) as caught:
        _read(tmp_path, claims)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_matrix_and_a_set_have_different_names(tmp_path):
    runs = {"laptop": {"a-{task}": {"stage": "adapt", "matrix": {"task": ["x"]}}}}
    with pytest.raises(ConfigError, match=r"runs.laptop.a-\{task\}: matrix: 'task' is also a set"):
        _read(tmp_path, [FULL], runs=runs, sets={"task": ["a"]})


def test_papers_that_are_there_are_enabled_unless_disabled(tmp_path):
    folder = write_project(tmp_path, paper(), paper(id="two"), settings={"papers": None})
    assert list(load_project(folder).papers) == ["one", "two"]
    assert list(load_project(folder, disabled=["one"]).papers) == ["two"]
    assert list(load_project(folder, disabled=["one"], papers="one").papers) == ["one"]
    with pytest.raises(ConfigError, match=r"disabled: unknown paper 'onne'; did you mean 'one'"):
        _ = load_project(folder, disabled=["onne"]).papers


def test_a_paper_as_a_single_file_is_told_where_to_go(tmp_path):
    folder = write_project(tmp_path)
    (folder / "config/papers/two.yaml").write_text("id: two\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"config/papers/two.yaml: a paper is a folder; rename it two/paper.yaml"):
        _ = load_project(folder).papers


def test_the_folder_has_the_papers_id(tmp_path):
    folder = write_project(tmp_path)
    (folder / "config/papers/one").rename(folder / "config/papers/two")
    with pytest.raises(ConfigError, match=r"two/paper.yaml: id is 'one', but the folder is named 'two'"):
        _ = load_project(folder, papers=["two"]).papers
