"""The benchmark of a step of each method: every method is in it, and its parts add up."""

from __future__ import annotations

from argparse import Namespace

import pytest

from benchmarks import method_cases, methods, timed_loop
from benchmarks.method_cases import CASES, FAMILIES, FULL, PEERS
from replica.config import load_project
from replica.methods import entries

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 1200,
}


def test_every_trainable_method_of_the_timed_families_has_a_case():
    wanted = {name for name, entry in entries().items() if entry.family in FAMILIES}
    timed = {reference["name"] for case in CASES.values() for reference in case.methods}
    assert wanted <= timed, f"add a case to benchmarks/method_cases.py for {sorted(wanted - timed)}"
    assert {case.peer for case in CASES.values()} <= {FULL, *PEERS}


def test_a_group_is_full_fine_tuning_its_peer_and_its_methods(monkeypatch):
    def followed(*_):
        raise AssertionError("following storages, as a run does, would be timed with the step")

    assert timed_loop.tracker_of is not followed  # the benchmark's own use of it, in a step that is not timed, stays
    monkeypatch.setattr("replica.training.cost.tracker_of", followed)
    monkeypatch.setitem(method_cases.MODELS, "classification", ("all-minilm-l6", SMALL))
    arguments = Namespace(rounds=3, steps=1, batch=4, length=8, precision="fp32")
    (((head, peer), cases),) = methods.groups(["lora"]).items()
    found = methods.measure(load_project("."), head, peer, cases, arguments)
    assert set(found) == {FULL, "peft-lora-qv", "lora"}
    lora, peft, full = (found[name] for name in ("lora", "peft-lora-qv", FULL))
    # 2 layers, query and value, rank 8 x (16 + 16), and a head of 16 x 2 + 2
    assert lora["trainable_parameters"] == peft["trainable_parameters"] == 2 * 2 * 8 * 32 + 34
    assert lora["flops"] == peft["flops"] < full["flops"]
    # the same modules save the same; all weights with their gradients and two moments take most memory
    assert lora["saved_bytes"] == peft["saved_bytes"] < full["saved_bytes"]
    assert full["peak_bytes"] > 4 * 4 * full["trainable_parameters"]
    assert lora["excess"] == pytest.approx(lora["against"]["peft-lora-qv"]["processor_seconds"])
    assert lora["flagged"] == (lora["excess"] > methods.LIMIT)


def test_the_phases_of_a_step_add_up_to_it():
    from benchmarks.timed_loop import _phases

    # starts at 10; hooks of 1, forward 2, backward 3, update 4
    assert _phases([10.0, 11.0, 13.0, 16.0, 20.0]) == {"forward": 2.0, "backward": 3.0, "update": 5.0, "step": 10.0}


def test_a_flag_needs_a_reason_and_an_unknown_case_is_named():
    assert methods.lacks_reason({"flagged": True, "reason": ""})
    assert not methods.lacks_reason({"flagged": True, "reason": "so many small operations"})
    assert not methods.lacks_reason({"excess": 1.0})
    with pytest.raises(SystemExit, match="no case or peer is named lorra"):
        methods.groups(["lorra"])
