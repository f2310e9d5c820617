"""The plan: ids follow content, papers share runs, seeds pair parents and children, and nothing heavy is imported."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import yaml

from replica.config import load_project
from replica.errors import ConfigError
from replica.plan import build_plan
from replica.plan.outputs import fingerprint
from replica.plan.resources import longest_path, training_resources, training_rows

from .small_project import paper, write_project


def _plan(folder, *papers, scale="laptop"):
    return build_plan(load_project(write_project(folder, *papers)), scale)


def _ids(plan, stage):
    return {run.id for run in plan.runs.values() if run.stage == stage}


def test_second_paper_with_the_same_teacher_adds_no_teacher_job(tmp_path):
    other = paper(id="two")
    other["runs"]["laptop"]["tutor"] = other["runs"]["laptop"].pop("teacher")
    other["runs"]["laptop"]["student"].update(teacher="tutor", train={"steps": 20})
    alone = _plan(tmp_path / "a")
    both = _plan(tmp_path / "b", paper(), other)
    assert _ids(both, "teacher") == _ids(alone, "teacher")
    [teacher] = [run for run in both.runs.values() if run.stage == "teacher"]
    assert teacher.papers == {"one", "two"}
    assert teacher.seeds == {0}
    assert len(_ids(both, "compress")) == 2 * len(_ids(alone, "compress"))


def test_ids_do_not_depend_on_names_or_other_papers(tmp_path):
    renamed = paper(id="two")
    renamed["runs"]["laptop"] = {
        {"plain": "simple"}.get(name, name): entry for name, entry in renamed["runs"]["laptop"].items()
    }
    renamed["claims"][0]["trend"]["effect"] = "runs.student.words.accuracy - runs.simple.words.accuracy"
    first, second = _plan(tmp_path / "a"), _plan(tmp_path / "b", renamed)
    assert set(first.runs) == set(second.runs)


def test_id_changes_with_specification_parent_task_and_method_version(tmp_path, monkeypatch):
    from replica.methods import registry

    base = _plan(tmp_path / "a").named["one"]["laptop"]
    changed = paper()
    changed["runs"]["laptop"]["teacher"]["train"]["learning_rate"] = 2e-3
    other = _plan(tmp_path / "b", changed).named["one"]["laptop"]
    assert other["teacher"] != base["teacher"]
    assert other["student"] != base["student"], "a child's id covers its parent's"
    assert other["plain"] == base["plain"]
    entry = registry.entry("logit-distillation")
    newer = copy.copy(entry)
    object.__setattr__(newer, "version", entry.version + 1)
    monkeypatch.setitem(registry.entries(), "logit-distillation", newer)
    assert _plan(tmp_path / "c").named["one"]["laptop"]["student"] != base["student"]


def test_tried_rates_are_runs_of_the_first_seed_only(tmp_path):
    plan = _plan(tmp_path)
    student = plan.runs[plan.named["one"]["laptop"]["student"]]
    assert student.seeds == {0, 1, 2}
    assert [plan.runs[c].seeds for c in student.candidates] == [{0}, {0}]
    assert [list(v.values()) for v in student.spec.tune.values()] == [[1e-3], [3e-3]]
    assert all(not plan.runs[c].evaluate for c in student.candidates), (
        "candidates are chosen on `select`, never scored on `report`"
    )


def test_single_parents_are_shared_and_others_are_paired_by_seed(tmp_path):
    plan = _plan(tmp_path)
    names = plan.named["one"]["laptop"]
    assert plan.parent_seed(names["teacher"], 2) == 0
    assert plan.parent_seed(names["plain"], 2) == 2


def test_smoke_uses_standins_and_caps(tmp_path):
    plan = _plan(tmp_path, scale="smoke")
    for run in plan.runs.values():
        assert run.spec.root == "tiny"
        assert run.spec.task.name == "smoke-words"
        assert run.spec.train["steps"] == 2
        assert not run.candidates


def test_matrix_makes_one_run_per_combination(tmp_path):
    wide = paper()
    wide["runs"]["laptop"]["grid-{size}-{steps}"] = {
        "stage": "adapt",
        "matrix": {"size": ["base", "small"], "steps": [3, 4]},
        "model": "{size}",
        "task": "words",
        "train": {"steps": "{steps}"},
    }
    plan = _plan(tmp_path, wide)
    made = {name: plan.runs[i].spec for name, i in plan.named["one"]["laptop"].items() if name.startswith("grid")}
    assert set(made) == {"grid-base-3", "grid-base-4", "grid-small-3", "grid-small-4"}
    assert made["grid-small-4"].train["steps"] == 4
    assert made["grid-small-4"].model.name == "small"


def test_names_of_one_matrix_key_come_together(tmp_path):
    wide = paper()
    grid = {
        "stage": "adapt",
        "matrix": {"size, steps": [["base", 3], ["small", 4]]},
        "model": "{size}",
        "task": "words",
        "train": {"steps": "{steps}"},
    }
    wide["runs"]["laptop"]["grid-{size}"] = grid
    plan = _plan(tmp_path, wide)
    specs = {name: plan.runs[i].spec for name, i in plan.named["one"]["laptop"].items() if name.startswith("grid")}
    assert {name: spec.train["steps"] for name, spec in specs.items()} == {"grid-base": 3, "grid-small": 4}
    grid["matrix"]["size, steps"][1] = ["small"]
    with pytest.raises(
        ConfigError, match=r"grid-\{size\}: matrix: 'size, steps' needs lists of 2 values, not \['small'\]"
    ):
        _plan(tmp_path, wide)


def test_resources_and_longest_path_follow_parents(tmp_path):
    project = load_project(write_project(tmp_path))
    plan = build_plan(project, "laptop")
    _, path = longest_path(project, plan)
    names = plan.named["one"]["laptop"]
    assert path[0] == names["teacher"] and path[-1] == names["student"]
    cost = training_resources(project, plan, names["plain"])
    blocks = 2 * (4 * 8 * 8 + 2 * 8 * 32)
    assert cost.flops == 6 * blocks * 10 * 32 * 0.5 * 16  # steps x batch x half the length limit


def test_parsing_imports_no_torch_transformers_pandas_or_matplotlib(root):
    code = (
        "import sys; from replica.config import load_project; from replica.plan import build_plan;"
        "from replica.plan.resources import longest_path; import replica.plan.outputs;"
        "p = load_project('.', quick=False)\n"
        "for scale in p.scales: build_plan(p, scale)\n"
        "print([m for m in ('torch', 'transformers', 'pandas', 'matplotlib', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_two_runs_with_one_id_and_other_content_are_refused(tmp_path, monkeypatch):
    import replica.plan.builder as runs

    twice = paper()
    plain = twice["runs"]["laptop"]["plain"]
    del twice["runs"]["laptop"]["student"]["tune"]
    twice["runs"]["laptop"]["faster"] = {**plain, "train": {"steps": 10, "learning_rate": 1e-3}}
    monkeypatch.setattr(runs, "_hash", lambda value: "0" * 8)
    with pytest.raises(ConfigError, match=r"two runs have the id adapt-small-words-0{8} and differ"):
        _plan(tmp_path, twice)


def test_one_run_for_all_seeds_here_and_one_a_seed_there_is_refused(tmp_path):
    other = paper(id="two")
    del other["runs"]["laptop"]["teacher"]["seeds"]  # else a student's teacher would depend on which papers are enabled
    with pytest.raises(ConfigError, match=r"'teacher' and \['teacher'\] are the same run .* `seeds: one`"):
        _plan(tmp_path, paper(), other)
    assert _plan(tmp_path, paper(), other, scale="smoke").runs, "one seed of everything: nothing to disagree on"


def test_tried_value_that_is_also_a_run_of_its_own_does_not_decide_on_its_seeds(tmp_path):
    """A run that is tried for a `seeds: one` parent and stands for itself in full keeps its own seeds."""
    both = paper()
    runs = both["runs"]["laptop"]
    runs["single"] = {**runs["plain"], "seeds": "one", "tune": {"learning_rate": [1e-3]}}
    del runs["plain"]
    runs["plain"] = {"stage": "adapt", "model": "small", "task": "words", "train": {"steps": 10, "learning_rate": 1e-3}}
    plan = _plan(tmp_path, both)
    names = plan.named["one"]["laptop"]
    assert plan.runs[names["single"]].candidates == [names["plain"]]
    assert not plan.runs[names["plain"]].single and plan.runs[names["plain"]].seeds == {0, 1, 2}


@pytest.mark.parametrize(
    "change, parts",
    [
        ({"authors": "B"}, {"layout"}),
        ({"venue": "W"}, {"layout"}),
        ({"arxiv": "2401.00001"}, {"layout"}),
        ({"families": ["pruning"]}, {"layout"}),
        ({"summary": "t"}, {"layout"}),
        ({"measurements": {"m": {"model": "small", "meters": {"parameters": {}}}}}, {"measurements"}),
        ({"seeds": {"paper": 2}}, set()),
    ],
)
def test_fingerprints_change_with_what_a_rule_shows_and_with_nothing_else(tmp_path, change, parts):
    first = load_project(write_project(tmp_path / "a"))
    second = load_project(write_project(tmp_path / "b", paper(**change)))
    changed = {
        part
        for part in ("claims", "measurements", "layout")
        if fingerprint(first.paper("one"), part, first) != fingerprint(second.paper("one"), part, second)
    }
    assert changed == parts


@pytest.mark.parametrize(
    "settings", [{"tolerances": {"accuracy": {"absolute": 9, "reason": "r"}}}, {"confidence_level": 0.9}]
)
def test_fingerprint_of_claims_covers_the_settings_that_decide_verdicts(tmp_path, settings):
    first = load_project(write_project(tmp_path / "a"))
    second = load_project(write_project(tmp_path / "b", settings=settings))
    assert fingerprint(first.paper("one"), "claims", first) != fingerprint(second.paper("one"), "claims", second)
    assert fingerprint(first.paper("one"), "layout", first) == fingerprint(second.paper("one"), "layout", second)


def test_what_is_reported_is_that_of_a_method_of_the_run(tmp_path):
    wrong = paper()
    wrong["claims"][0]["trend"]["effect"] = "runs.student.reported.deft.density - 1"
    with pytest.raises(ConfigError, match="run 'student' has no method that could report a number"):
        _plan(tmp_path, wrong)


def _together(folder, **entry):
    project = write_project(folder)
    task = (project / "config/tasks/words.yaml").read_text(encoding="utf-8")
    for name, more in (("pairs", ""), ("numbers", "kind: regression\nlabels: []\n")):
        text = task.replace("name: words", f"name: {name}", 1)
        text = text.replace("kind: classification\n", more) if more else text
        text = text.replace("labels:\n- a\n- b\n", "") if more else text
        (project / f"config/tasks/{name}.yaml").write_text(text, encoding="utf-8")
    other = paper()
    plain = other["runs"]["laptop"]["plain"]
    plain.update({"together": ["pairs"], **entry})
    (project / "config/papers/one/paper.yaml").write_text(yaml.safe_dump(other, sort_keys=False), encoding="utf-8")
    return build_plan(load_project(project), "laptop")


def test_a_run_over_several_tasks_reads_all_their_data_and_is_scored_on_each(tmp_path):
    plan, alone = _together(tmp_path / "a"), _plan(tmp_path / "b")
    run = plan.runs[plan.named["one"]["laptop"]["plain"]]
    assert run.tasks == ["words", "pairs"] and set(run.evaluate) == {"words", "pairs"}
    assert [plan.prepared[name].task for name in run.trained_data] == ["words", "pairs"]
    assert run.prepared == set(run.trained_data) == set(run.evaluate.values())
    assert run.id != alone.named["one"]["laptop"]["plain"]
    assert training_rows(load_project(tmp_path / "a"), run) == 200  # two data sets of 100 rows


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"together": ["numbers"]}, "another head"),
        ({"together": ["words"]}, "is listed twice"),
        ({"together": ["word"]}, "words"),
        ({"evaluate": ["words", "numbers"]}, "none of those that this run trains"),
        ({"beside": "pairs"}, "goes with neither"),
    ],
)
def test_tasks_that_cannot_be_trained_together_are_named(tmp_path, entry, message):
    with pytest.raises(ConfigError, match=message):
        _together(tmp_path, **entry)


def test_claims_asked_for_by_name_need_the_arms_of_their_effect_and_no_others(tmp_path):
    content = paper()
    content["claims"][0]["trend"].update(shows={"plain": "runs.plain.words.accuracy"}, quick=False)
    rest = copy.deepcopy(content["claims"][0])
    rest["id"] = "alone"
    rest["trend"].update(effect="runs.student.words.accuracy", quick=True)
    content["claims"].append(rest)
    root = write_project(tmp_path, content)
    named = build_plan(load_project(root, claims="gain"), "laptop")
    assert {name for run in named.wanted["one"] for name in named.runs[run].names} == {"student", "plain"}
    alone = build_plan(load_project(root, claims=["alone"]), "laptop")
    assert {name for run in alone.wanted["one"] for name in alone.runs[run].names} == {"student"}
    with pytest.raises(ConfigError, match=r"no enabled paper has a claim 'gian'.*gain"):
        build_plan(load_project(root, claims="gian"), "laptop")
