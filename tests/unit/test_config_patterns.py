"""Names with parts in braces: sets spread, words fill, stored names match."""

from __future__ import annotations

from replica.config.patterns import fill, matches, parts, pattern, spread

SETS = {"task": ["cola", "rte"], "shots": [1, 2], "arm": {"one adapter": "single", "LoRA": "lora"}}


def test_a_name_is_repeated_for_every_member():
    assert spread("mean(runs.full-{task}.glue-{task}.accuracy) - 1", SETS) == (
        "mean(runs.full-cola.glue-cola.accuracy, runs.full-rte.glue-rte.accuracy) - 1"
    )


def test_two_sets_are_multiplied_out():
    assert spread("{task}-{shots}", SETS) == "cola-1, cola-2, rte-1, rte-2"


def test_list_items_and_keys_are_repeated():
    assert spread(["a", "glue-{task}", "{shots}"], SETS) == ["a", "glue-cola", "glue-rte", 1, 2]
    assert spread({"{task}": {"x": "runs.{task}.f1"}, "b": 3}, SETS) == {
        "cola": {"x": "runs.cola.f1"},
        "rte": {"x": "runs.rte.f1"},
        "b": 3,
    }


def test_labels_are_keys_and_members_are_values():
    assert spread({"{arm}": "runs.{arm}.t.f1"}, SETS) == {"one adapter": "runs.single.t.f1", "LoRA": "runs.lora.t.f1"}
    assert spread("mean(runs.{arm}.t.f1)", SETS) == "mean(runs.single.t.f1, runs.lora.t.f1)"


def test_parts_without_a_set_stay():
    assert spread("100 * runs.a.reported.deft.layer{layer} + {0}.b", SETS) == (
        "100 * runs.a.reported.deft.layer{layer} + {0}.b"
    )


def test_words_fill_strings_and_keys_and_keep_their_type():
    assert fill({"{a}-x": ["{a}", "{a}{b}", 1]}, {"a": 8}) == {"8-x": [8, "8{b}", 1]}


def test_the_first_name_with_parts_is_the_pattern():
    assert parts("a{x}.b{y}.{x}") == ["x", "y"]
    assert pattern("100 * runs.a.t.f1 / history.run.`c++`.{layer}") == "history.run.c++.{layer}"
    assert pattern("runs.a.t.f1") is None


def test_stored_names_match_in_natural_order():
    stored = ["run.layer10.a", "run.layer2.a", "run.layer2.b", "other.layer1.a", "run.layer2.a.more"]
    assert matches("run.layer{layer}.a", stored) == [{"layer": "2"}, {"layer": "10"}]
    assert matches("{x}.layer{n}.{x}", ["a.layer1.a", "a.layer1.b"]) == [{"x": "a", "n": "1"}]
