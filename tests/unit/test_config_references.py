"""A name in a registry, task, scale or figure that is of nothing, and a number that nothing can have, is an error in its own file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from replica.assets import builders, generated, packages, scenes
from replica.assets import models as asset_models
from replica.config import known_sources, load_project
from replica.config.asset_schema import ModelEntry
from replica.errors import AssetError, ConfigError, nearest
from replica.plan import build_plan

from .small_project import paper, write_project


def _refused(folder: Path, file: str, path: str, value: Any, scale: str = "laptop") -> str:
    """Return the error of the small project with one value of a file changed, by its dotted path."""
    write_project(folder)
    place = folder / "config" / file
    content = yaml.safe_load(place.read_text(encoding="utf-8"))
    inner, keys = content, [int(key) if key.isdigit() else key for key in path.split("/")]
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    place.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        build_plan(load_project(folder), scale)
    assert f"config/{file}" in str(caught.value), caught.value
    return str(caught.value)


@pytest.mark.parametrize(
    ("file", "path", "value", "message"),
    [
        ("datasets.yaml", "datasets/words/standins", {"smoke": "smoke-word"}, "did you mean 'smoke-words'"),
        ("datasets.yaml", "datasets/words/standins", {"smok": "words"}, "did you mean 'smoke'"),
        ("datasets.yaml", "datasets/words/build", "rotten-tomatos", "unknown builder 'rotten-tomatos'; did you mean"),
        ("datasets.yaml", "datasets/words/sources/generated/generator", "sentimen", "did you mean 'sentiment'"),
        ("datasets.yaml", "datasets/words/sources/generated/options", {"size": {}}, "did you mean 'sizes'"),
        ("datasets.yaml", "datasets/words/sources/generated/seed", 2**32, "less than 4294967296"),
        ("datasets.yaml", "datasets/words/sources", {"package": {"loader": "digits"}}, "did you mean 'sklearn-digits'"),
        ("datasets.yaml", "datasets/..", {}, "'..' is no name"),
        ("datasets.yaml", "datasets/A b", {}, "'A b' is no name"),
        ("models.yaml", "models/..", {}, "'..' is no name"),
        ("models.yaml", "models/small/tokenizer", "bas", "models.small.tokenizer: unknown model 'bas'; did you mean 'base'"),
        ("models.yaml", "models/small/weights_of", "base", "has no `sources`"),
        ("models.yaml", "models/small/standins", {"smoke": "tinny"}, "did you mean 'tiny'"),
        ("models.yaml", "models/small/config/num_hidden_layers", 10**9, "is beyond the 1000"),
        ("models.yaml", "models/small/config/hidden_size", -8, "`hidden_size: -8` is negative"),
        ("models.yaml", "models/small/config/hidden_size", "wide", "`hidden_size` is a number"),
        ("models.yaml", "models/small/config/vocab_size", float("nan"), "nan is no finite number"),
        ("tasks/words.yaml", "splits/train", "trian", "splits.train: unknown split 'trian'; did you mean 'train'"),
        ("tasks/words.yaml", "splits/train", "../../x", "unknown split '../../x'"),
        ("tasks/words.yaml", "splits/report", "test+validaton", "did you mean 'validation'"),
        ("tasks/words.yaml", "splits/select", {"from": "tain", "share": 0.1}, "splits.select.from: unknown split 'tain'"),
        ("tasks/words.yaml", "inputs", ["txt"], "inputs: unknown column 'txt'; did you mean 'text'"),
        ("tasks/words.yaml", "target", "labels", "target: unknown column 'labels'; did you mean 'label'"),
        ("tasks/words.yaml", "only", {"lable": [1]}, "only: unknown column 'lable'; did you mean 'label'"),
        ("tasks/words.yaml", "rows", {"select": -1}, "rows.select"),
        ("tasks/words.yaml", "metrics", [{"name": "Accurcy"}], "did you mean 'accuracy'"),
        ("tasks/words.yaml", "standins", {"smoke": "smoke-word"}, "did you mean 'smoke-words'"),
        ("tasks/words.yaml", "max_length", True, "true and false"),
        ("scales/smoke.yaml", "train", {"max_grad_nnorm": 1.0}, "train: unknown key 'max_grad_nnorm'; did you mean 'max_grad_norm'"),
        ("scales/smoke.yaml", "train", {"stepss": None}, "did you mean 'steps'"),
        ("scales/smoke.yaml", "train", {"steps": 0}, "train: steps"),
        ("scales/smoke.yaml", "methods", {"galoore": {}}, "unknown method 'galoore'; did you mean 'galore'"),
        ("scales/smoke.yaml", "methods", {"lora": {"rnak": 4}}, "methods.lora: unknown key 'rnak'; did you mean 'rank'"),
        ("scales/smoke.yaml", "methods", {"lora": {"rank": 0}}, "methods.lora: rank"),
        ("scales/smoke.yaml", "standin_models", {"bret": "tiny"}, "did you mean 'bert'"),
        ("scales/smoke.yaml", "standin_models", {"bert": "tinny"}, "did you mean 'tiny'"),
        ("scales/smoke.yaml", "standin_tasks", {"classificaton": "words"}, "did you mean 'classification'"),
        ("scales/smoke.yaml", "standin_tasks", {"mlm": "word"}, "did you mean 'words'"),
        ("scales/smoke.yaml", "threads", 0, "threads"),
        ("scales/laptop.yaml", "seeds", 10**7, "seeds"),
        ("config.yaml", "quick", "maybe", "quick"),
        ("papers/one/paper.yaml", "seeds", {"paper": 0}, "seeds.paper"),
        ("papers/one/paper.yaml", "seeds", {"paper": 1_000_000_000_000}, "seeds.paper"),
        ("papers/one/paper.yaml", "runs/laptop/plain/train/steps", True, "true and false"),
        ("papers/one/paper.yaml", "runs/laptop/plain/train", {"epochs": float("inf")}, "inf is no finite number"),
        ("papers/one/paper.yaml", "runs/laptop/plain/methods", [{"name": []}], "unknown method []"),
        ("papers/one/paper.yaml", "runs/laptop/plain/methods", ["LORA"], "did you mean 'lora'"),
        ("papers/one/paper.yaml", "runs/laptop/plain/matrix", {5: [1]}, "matrix"),
        ("papers/one/paper.yaml", "claims/0/value", float("nan"), "nan is no finite number"),
        ("papers/one/paper.yaml", "claims/0/value", 10**400, "18 digits"),
        ("papers/one/paper.yaml", "claims/0/unit_scale", 0, "unit_scale"),
        ("papers/one/paper.yaml", "claims/0/explain", {"x": "y"}, "explain: no cell has the key 'x'"),
        ("papers/one/paper.yaml", "claims/0/trend/margin", float("inf"), "inf is no finite number"),
        ("papers/one/paper.yaml", "claims/0/trend/seeds", 10**7, "seeds"),
    ],
)  # fmt: skip
def test_a_mistake_is_found_in_its_own_file(tmp_path, file, path, value, message):
    assert message in _refused(tmp_path, file, path, value)


@pytest.mark.parametrize(
    ("kind", "series", "message"),
    [
        ("bar", {"a": "runs.plain.words.accuracy +"}, "is not arithmetic"),
        ("bar", {"a": "methodcost"}, "'methodcost' names no measurement"),
        ("bar", {"a": "maxx(1, 2)"}, "did you mean 'max'"),
        ("bar", {"a": "runs.plain.words.{metric} / 2 +"}, "is not arithmetic"),
        ("scatter", {"a": {"b": "1, 2, 3"}}, "is not a point"),
        ("line", {"a": {"x": "1, 2", "y": "1"}}, "x and y give 2 and 1 points"),
        ("heatmap", {"a": "runs.plain.words.accuracy"}, "parts in braces"),
        ("heatmap", {"a": "runs.plain.words.{row}"}, "{column}"),
    ],
)
def test_a_figures_mistake_is_found_before_anything_runs(tmp_path, kind, series, message):
    figures = [{"id": "f", "title": "F", "kind": kind, "series": series}]
    with pytest.raises(ConfigError) as caught:
        build_plan(load_project(write_project(tmp_path, paper(figures=figures))), "laptop")
    assert message in str(caught.value) and "figures.f.series.a" in str(caught.value)


@pytest.mark.parametrize("key", ["tables", "figures"])
def test_two_tables_or_figures_of_one_id(tmp_path, key):
    own = {"claims": ["gain"]} if key == "tables" else {"kind": "bar"}
    twice = paper(**{key: [{"id": "x", "title": "X", **own}] * 2})
    with pytest.raises(ConfigError, match=f"two {key} have the id x"):
        load_project(write_project(tmp_path, twice)).paper("one")


@pytest.mark.parametrize("how", ["base", "from", "teacher", "backwards"])
def test_a_chain_of_thousands_of_runs_is_refused(tmp_path, how):
    long = paper()
    runs = long["runs"]["laptop"]
    for number in range(2000):
        before = f"link{number - 1}" if number else "plain"
        runs[f"link{number}"] = {
            "base": {"base": before},
            "from": {"stage": "adapt", "from": before, "task": "words", "train": {"steps": 1}},
            "backwards": {"stage": "adapt", "from": before, "task": "words", "train": {"steps": 1}},
            "teacher": {"stage": "adapt", "model": "small", "teacher": before, "task": "words", "train": {"steps": 1}},
        }[how]
    if how == "backwards":
        long["runs"]["laptop"] = dict(reversed(runs.items()))
    with pytest.raises(ConfigError, match="more than 100 runs"):
        build_plan(load_project(write_project(tmp_path, long)), "laptop")


def test_parents_on_many_paths_are_asked_for_once(tmp_path):
    """Each run starts from and learns from the one before: 2^60 paths to the first."""
    many = paper()
    for number in range(60):
        before = f"link{number - 1}" if number else "plain"
        own = {"stage": "adapt", "from": before, "teacher": before, "task": "words", "methods": ["logit-distillation"]}
        many["runs"]["laptop"][f"link{number}"] = {**own, "train": {"steps": 1}}
    many["claims"][0]["trend"]["effect"] = "runs.link59.words.accuracy - runs.plain.words.accuracy"
    plan = build_plan(load_project(write_project(tmp_path, many)), "laptop")
    assert all(plan.runs[plan.named["one"]["laptop"][f"link{n}"]].seeds == {0, 1, 2} for n in range(60))


def test_a_matrix_and_sets_of_millions_are_refused(tmp_path):
    many = paper()
    many["runs"]["laptop"]["plain"]["matrix"] = {key: list(range(60)) for key in "abcd"}
    with pytest.raises(ConfigError, match="makes more than 10000 runs"):
        build_plan(load_project(write_project(tmp_path / "a", many)), "laptop")
    many = paper(sets={key: list(range(60)) for key in "abcd"})
    many["claims"][0]["trend"]["shows"] = {"x {a} {b} {c} {d}": "1"}
    with pytest.raises(ConfigError, match="stands for more than 10000 names"):
        build_plan(load_project(write_project(tmp_path / "b", many)), "laptop")


def test_a_length_beyond_the_models_positions_is_refused(tmp_path):
    write_project(tmp_path)
    path = tmp_path / "config" / "models.yaml"
    models = yaml.safe_load(path.read_text(encoding="utf-8"))
    for name, positions in (("base", 16), ("small", 15)):
        models["models"][name]["config"]["max_position_embeddings"] = positions
    path.write_text(yaml.safe_dump(models), encoding="utf-8")
    with pytest.raises(ConfigError, match="length 16 is beyond the 15 positions of this bert model"):
        build_plan(load_project(tmp_path), "laptop")
    models["models"]["small"].update(architecture="roberta")
    models["models"]["small"]["config"].update(max_position_embeddings=18, pad_token_id=1)  # 18 - 2 for padding
    path.write_text(yaml.safe_dump(models), encoding="utf-8")
    build_plan(load_project(tmp_path), "laptop")


def test_hidden_files_are_not_read(tmp_path):
    """A Mac's archive has `._x.yaml` beside x.yaml, its folder views `.DS_Store`."""
    write_project(tmp_path)
    for name in ("tasks/._words.yaml", "scales/._smoke.yaml", "papers/._one", "papers/.DS_Store", "papers/._x.yaml"):
        (tmp_path / "config" / name).write_bytes(b"\x00\x05\x16\x07\xb0")
    (tmp_path / "config" / "papers" / ".git").mkdir()
    assert list(load_project(tmp_path).paper_folders) == ["one"]
    build_plan(load_project(tmp_path), "smoke")


@pytest.mark.parametrize(("given", "value"), [("false", False), ("true", True), (False, False), (0, 0), ("no", False)])
def test_truth_values_of_a_call_may_be_text(tmp_path, given, value):
    settings = load_project(write_project(tmp_path), measured=given, quick=given).settings
    assert settings.measured is bool(value) and settings.quick is bool(value)


def test_a_mistake_of_the_call_is_not_blamed_on_a_file(tmp_path):
    for key in ("measured", "quick"):
        with pytest.raises(ConfigError, match=f"^--config: {key}: "):
            load_project(write_project(tmp_path), **{key: "maybe"})


def test_known_sources_are_those_that_assets_have(tmp_path):
    model = ModelEntry(title="m", architecture="tokenizer", config={}, sources={"generated": {"generator": "?"}})
    assert {name: tuple(schema.names) for name, schema in generated.SCHEMAS.items()} == known_sources.GENERATORS
    assert tuple(scenes.SCHEMA.names) == known_sources.GENERATORS["scenes"]
    built = {*builders.REVIEW_SCHEMA.names, *builders.PLOT_SCHEMA.names, *builders.TEXT_SCHEMA.names}
    assert built == set(known_sources.BUILDERS["rotten-tomatoes"])
    assert tuple(packages.IMAGE_SCHEMA.names) == known_sources.LOADERS["sklearn-digits"]
    for names, call in (
        (known_sources.BUILDERS, lambda: builders.build("?", {}, "x")),
        (known_sources.LOADERS, lambda: packages.load("?")),
        (known_sources.GENERATORS, lambda: generated.generate("?", 0, {})),
        (known_sources.MODEL_GENERATORS, lambda: asset_models.from_generated(model, tmp_path, tmp_path)),
    ):
        with pytest.raises(AssetError) as caught:
            call()
        assert str(caught.value).endswith(nearest("?", names))


def test_the_nearest_name_ignores_case_and_is_short():
    assert nearest("LORA", ["lora", "adapter"]) == "; did you mean 'lora'?"
    assert nearest("qqp", ["QQP", "mnli"]) == "; did you mean 'QQP'?"
    assert len(nearest("?" * 100_000, ["x" * 1000] * 50)) < 200
