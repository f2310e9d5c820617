"""Configuration errors appear at reading time and name file, key and what would be right."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from replica.config import load_project
from replica.config.json_schema import schemas
from replica.config.yaml_files import read_yaml
from replica.errors import ConfigError
from replica.plan import build_plan

from .small_project import _task, paper, write_project


def _fails(folder: Path, *papers, match: tuple[str, ...], settings=None) -> None:
    with pytest.raises(ConfigError) as caught:
        build_plan(load_project(write_project(folder, *papers, settings=settings)), "laptop")
    for part in match:
        assert part in str(caught.value), f"{part!r} not in {caught.value}"


def _with_run(name: str, **changes):
    broken = paper()
    broken["runs"]["laptop"][name].update(changes)
    return broken


def test_unknown_key_names_file_key_and_nearest(tmp_path):
    _fails(tmp_path, _with_run("plain", learning_rat=1), match=("config/papers/one/paper.yaml", "learning_rat"))


def test_unknown_training_key_is_found_in_the_run(tmp_path):
    broken = _with_run("plain", train={"steps": 10, "learning_rte": 1e-3})
    _fails(tmp_path, broken, match=("runs.laptop.plain", "learning_rte", "did you mean 'learning_rate'"))


def test_unknown_method_names_the_nearest(tmp_path):
    _fails(
        tmp_path,
        _with_run("student", methods=["logit-distilation"]),
        match=("runs.laptop.student", "did you mean 'logit-distillation'"),
    )


def test_unknown_method_field(tmp_path):
    broken = _with_run("student", methods=[{"name": "logit-distillation", "temperatur": 2}])
    _fails(tmp_path, broken, match=("logit-distillation", "temperatur", "did you mean 'temperature'"))


def test_number_out_of_range(tmp_path):
    _fails(
        tmp_path,
        _with_run("plain", train={"steps": 0}),
        match=("runs.laptop.plain", "steps", "greater than or equal to 1"),
    )


def test_micro_batches_that_do_not_make_a_batch(tmp_path):
    broken = _with_run("plain", train={"steps": 10, "batch_size": 32, "accumulate": 5})
    _fails(tmp_path, broken, match=("runs.laptop.plain", "`accumulate: 5` does not divide `batch_size: 32`"))
    tuned = _with_run("student", train={"steps": 10, "accumulate": 4}, tune={"batch_size": [16, 18]})
    _fails(tmp_path / "b", tuned, match=("runs.laptop.student", "does not divide `batch_size: 18`"))


@pytest.mark.parametrize("key, value", [("task", "wrds"), ("model", "bse")])
def test_unknown_task_and_model(tmp_path, key, value):
    _fails(tmp_path, _with_run("plain", **{key: value}), match=("runs.laptop.plain", value, "did you mean"))


def test_unknown_paper(tmp_path):
    _fails(tmp_path, settings={"papers": ["onne"]}, match=("config/config.yaml", "onne", "did you mean 'one'"))


def test_unknown_scale(tmp_path):
    with pytest.raises(ConfigError, match="unknown scale 'laptp'; did you mean 'laptop'"):
        build_plan(load_project(write_project(tmp_path)), "laptp")


def test_claim_that_names_no_run(tmp_path):
    broken = paper()
    broken["claims"][0]["trend"]["effect"] = "runs.studnt.words.accuracy"
    _fails(tmp_path, broken, match=("claims.gain", "studnt", "did you mean 'student'"))


@pytest.mark.parametrize(
    "ours, message",
    [
        ("studnt.parameters.total", "did you mean 'student'"),
        ("runs.big.words.accuracy", "names no run"),
    ],
)
def test_structural_and_full_claims_are_checked_at_every_scale(tmp_path, ours, message):
    broken = paper(measurements={"student": {"model": "small", "meters": {"parameters": {}}}})
    broken["claims"][0]["ours"] = ours
    _fails(tmp_path, broken, match=("claims.gain", message))


@pytest.mark.parametrize(
    "name, message",
    [
        ("runs.student.wrds.accuracy", "names no task; did you mean 'words'"),
        ("runs.student.smoke-words.accuracy", "is not scored on task 'smoke-words', only on words"),
        ("runs.student.words.acuracy", "has no metric 'acuracy'; did you mean 'accuracy'"),
        ("runs.student.measures.latency_p50", "is not measured"),
    ],
)
def test_trend_over_what_no_run_is_scored_on(tmp_path, name, message):
    broken = paper()
    broken["claims"][0]["trend"]["shows"] = {"arm": name}
    _fails(tmp_path, broken, match=("claims.gain", message))


def test_table_of_an_unknown_claim_and_measurement_of_an_unknown_model(tmp_path):
    table = {"id": "t", "title": "T", "claims": ["gian"]}
    _fails(tmp_path / "a", paper(tables=[table]), match=("tables.t", "did you mean 'gain'"))
    measured = {"m": {"model": "smal", "meters": {"parameters": {}}}}
    _fails(tmp_path / "b", paper(measurements=measured), match=("measurements.m", "did you mean 'small'"))


@pytest.mark.parametrize(
    "meters, message",
    [
        ({"paramters": {}}, "meters: unknown meter 'paramters'; did you mean 'parameters'"),
        ({"flops": {"lenght": 128}}, "meters.flops: unknown key 'lenght'; did you mean 'length'"),
    ],
)
def test_unknown_meter_or_option_is_found_before_anything_runs(tmp_path, meters, message):
    measured = {"m": {"model": "small", "meters": meters}}
    _fails(tmp_path, paper(measurements=measured), match=(f"config/papers/one/paper.yaml: measurements.m.{message}",))


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("config.yaml", "- one", "config/config.yaml: expected a mapping of keys to values, got list"),
        ("config.yaml", "one", "config/config.yaml: expected a mapping of keys to values, got str"),
        ("models.yaml", "3", "config/models.yaml: expected a mapping of keys to values, got int"),
        ("models.yaml", "models: [a]", "config/models.yaml: models: expected a mapping of keys to values, got list"),
        ("papers/one/paper.yaml", "[]", "config/papers/one/paper.yaml: expected a mapping, got list"),
    ],
)
def test_a_file_that_is_no_mapping_is_named(tmp_path, name, text, message):
    folder = write_project(tmp_path)
    (folder / "config" / name).write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        build_plan(load_project(folder), "laptop")
    assert message in str(caught.value)


@pytest.mark.parametrize("scale", ["smoke", "laptop"])
@pytest.mark.parametrize(
    "tune, message",
    [
        ({"learning_rte": [1e-3]}, "did you mean 'learning_rate'"),
        ({"learning_rate": [0.0]}, "greater than 0"),
        ({"learning_rate": []}, "give one key with the values to try"),
        ({"learning_rate": [1e-3], "weight_decay": [0.1]}, "give one key with the values to try"),
    ],
)
def test_tried_values_are_checked_also_where_nothing_is_tried(tmp_path, scale, tune, message):
    project = load_project(write_project(tmp_path, _with_run("student", tune=tune)))
    with pytest.raises(ConfigError) as caught:
        build_plan(project, scale)
    assert "runs.laptop.student" in str(caught.value) and message in str(caught.value)


def test_random_start_from_a_run_is_refused(tmp_path):
    broken = _with_run("plain", random_init=True)
    del broken["runs"]["laptop"]["plain"]["model"]
    broken["runs"]["laptop"]["plain"]["from"] = "teacher"
    _fails(tmp_path, broken, match=("runs.laptop.plain", "`random_init` goes with `model`"))


def test_scoring_with_a_head_that_was_not_trained_is_refused(tmp_path):
    write_project(tmp_path, _with_run("plain", evaluate=["words", "wider"]))
    task = json.loads(json.dumps(_task("wider")))
    task.update(dataset="words", labels=["a", "b", "c"])
    (tmp_path / "config" / "tasks" / "wider.yaml").write_text(json.dumps(task), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"runs.laptop.plain: evaluate: task 'wider' needs another head"):
        build_plan(load_project(tmp_path), "laptop")


@pytest.mark.parametrize("report", [None, "validation"])
def test_tuned_run_is_not_scored_on_the_split_that_chose(tmp_path, report):
    write_project(tmp_path)
    task = _task("words")
    task["splits"] = {"train": "train", "select": "validation", "report": report}
    (tmp_path / "config" / "tasks" / "words.yaml").write_text(json.dumps(task), encoding="utf-8")
    with pytest.raises(
        ConfigError, match=r"runs.laptop.student: evaluate: task 'words' reports on the split that chooses"
    ):
        build_plan(load_project(tmp_path), "laptop")


def test_unknown_parent_and_circle(tmp_path):
    _fails(
        tmp_path / "a", _with_run("student", teacher="techer"), match=("runs.laptop.student", "did you mean 'teacher'")
    )
    broken = _with_run("plain", model=None)
    del broken["runs"]["laptop"]["plain"]["model"]
    broken["runs"]["laptop"]["plain"]["from"] = "plain"
    _fails(tmp_path / "b", broken, match=("circle",))


def test_method_without_its_teacher(tmp_path):
    broken = paper()
    del broken["runs"]["laptop"]["student"]["teacher"]
    _fails(tmp_path, broken, match=("runs.laptop.student", "needs `teacher:`"))


def test_two_losses_in_one_run(tmp_path):
    broken = _with_run("student", methods=["logit-distillation", "minilm"])
    _fails(tmp_path, broken, match=("both change the loss",))


def test_duplicate_key_and_broken_yaml_name_the_line(tmp_path):
    write_project(tmp_path)
    path = tmp_path / "config" / "papers" / "one" / "paper.yaml"
    path.write_text(path.read_text(encoding="utf-8") + "title: again\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"one/paper.yaml.*'title' is given twice"):
        _ = load_project(tmp_path).papers
    path.write_text("id: [\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"one/paper.yaml: not valid YAML \(line"):
        _ = load_project(tmp_path).papers


def test_yaml_objects_are_not_built(tmp_path):
    write_project(tmp_path)
    (tmp_path / "config" / "papers" / "one" / "paper.yaml").write_text(
        "id: !!python/object/apply:os.system ['true']\n", encoding="utf-8"
    )
    with pytest.raises(ConfigError, match=r"one/paper\.yaml"):
        _ = load_project(tmp_path).papers


def test_json_schemas_are_those_of_the_models(root):
    for name, text in schemas().items():
        stored = (root / "config" / "schema" / name).read_text(encoding="utf-8")
        assert json.loads(stored) == json.loads(text), f"config/schema/{name} is old: run `make schema`"


def test_unknown_method_of_a_measurement(tmp_path):
    broken = paper(
        measurements={"m": {"model": "base", "methods": ["logit-distilation"], "meters": {"parameters": {}}}}
    )
    _fails(tmp_path, broken, match=("measurements.m", "did you mean 'logit-distillation'"))


def test_every_configuration_file_fits_its_json_schema(root):
    project = load_project(root)
    entries = {
        "settings": [read_yaml(root / "config/config.yaml")],
        "dataset": read_yaml(root / "config/datasets.yaml")["datasets"].values(),
        "model": read_yaml(root / "config/models.yaml")["models"].values(),
        "scale": [read_yaml(path) for path in (root / "config/scales").glob("*.yaml")],
        "hub.lock": [read_yaml(root / "config/hub.lock.yaml")],
        "paper": [read_yaml(path) for path in (root / "config/papers").glob("*/paper.yaml")],
        "task": [task.model_dump(mode="json", by_alias=True) for task in project.tasks.values()],
    }
    for name, contents in entries.items():
        schema = json.loads((root / "config" / "schema" / f"{name}.schema.json").read_text(encoding="utf-8"))
        jsonschema.Draft202012Validator.check_schema(schema)
        validator = jsonschema.Draft202012Validator(schema)
        for content in contents:
            errors = list(validator.iter_errors(json.loads(json.dumps(content))))
            assert [f"{error.json_path}: {error.message[:200]}" for error in errors] == [], name
    wrong = {**entries["task"][0], "kind": "clasification"}
    schema = json.loads((root / "config" / "schema" / "task.schema.json").read_text(encoding="utf-8"))
    assert list(jsonschema.Draft202012Validator(schema).iter_errors(wrong))
