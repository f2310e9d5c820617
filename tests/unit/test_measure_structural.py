"""Structural measurements: meters by name, options checked, methods applied, JSON written by the program."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from replica.config.asset_schema import ModelEntry
from replica.config.schema import Measurement, Paper
from replica.errors import ConfigError
from replica.measure.runners import RUNNERS
from replica.measure.structural import measure, measure_paper
from replica.meters.registry import METERS, parse_meters
from replica.methods import registry
from replica.methods.base import Method
from replica.methods.registry import MethodConfig

ROOT = Path(__file__).parents[2]
BERT = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "vocab_size": 30522,
}


class FakeProject:
    """As much of a project as a measurement reads."""

    models = {"bert": ModelEntry(title="BERT", architecture="bert", config=BERT)}

    def model(self, name):
        return self.models[name]

    def paper(self, name):
        measurement = {"model": "bert", "meters": {"parameters": {}, "flops": {"length": 64}}}
        half = {"model": "bert", "config": {"num_hidden_layers": 6}, "meters": {"parameters": {}}}
        return Paper(
            id=name,
            title="",
            authors="",
            year=2020,
            venue="",
            families=[],
            summary="",
            claims=[],
            measurements={"full": measurement, "half": half},
        )


@pytest.fixture
def only_biases(monkeypatch):
    """A registered method that trains biases, says how many, and states its cost and schedule."""

    class Config(MethodConfig):
        factor: float = 2.0

    class OnlyBiases(Method):
        def prepare(self, model, context):
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(name.endswith("bias"))

        def expected(self, model):
            return {"trainable_parameters": 102_912}

        def cost(self, model, length=1):
            return {"additions": self.config.factor * length}

        def schedule(self, total_steps):
            return {"last": total_steps - 1}

    found = registry.MethodEntry("only-biases", 1, Config, f"{__name__}:unused", frozenset({"trainable"}), False, False)
    monkeypatch.setattr(registry.MethodEntry, "load", lambda self: OnlyBiases)
    monkeypatch.setitem(registry.entries(), "only-biases", found)


def test_every_measurement_of_a_paper_is_measured():
    lines = []
    found = measure_paper(FakeProject(), "one", lines.append)
    full, half = found["measurements"]["full"], found["measurements"]["half"]
    assert full["parameters"]["total"] == 109_482_240
    assert half["parameters"]["transformer"] * 2 == full["parameters"]["transformer"] == 12 * 7_087_872
    assert full["flops"]["transformer_linear_forward"] == 2 * 12 * 64 * 12 * 768**2
    assert full["assumptions"]["flops_options"] == {
        "batch": 1,
        "length": 64,
        "decoder_length": None,
        "backward": False,
        "density": None,
    }
    assert [line.split(": ")[1] for line in lines] == ["full", "half"]
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_methods_are_put_in_before_the_meters_run(only_biases):
    meters = {
        "parameters": {},
        "method_cost": {"length": 3},
        "config": {"total_steps": 10},
        "optimizer": {"rule": "adamw"},
    }
    found = measure(FakeProject(), Measurement(model="bert", methods=["only-biases"], meters=meters))
    biases = 12 * (4 * 768 + 3072 + 768 + 2 * 768) + 2 * 768  # every layer, the embedding's norm and the pooler
    assert found["parameters"]["trainable"] == biases == 102_912 == found["optimizer"]["parameters"]
    assert found["parameters"]["expected"] == {"only-biases": {"trainable_parameters": 102_912}}
    assert found["parameters"]["added"] == 0
    assert found["method_cost"]["additions"] == found["method_cost"]["only-biases"]["additions"] == 6.0
    assert found["config"]["factor"] == 2.0
    assert found["config"]["schedule"] == {"last": 9}
    assert found["config"]["model"]["hidden_size"] == 768


@pytest.mark.parametrize(
    ("meters", "message"),
    [
        ({"parameter": {}}, "did you mean 'parameters'"),
        ({"flops": {"lenght": 3}}, "flops: unknown key 'lenght'; did you mean 'length'"),
        ({"memory": {"era": "1999"}}, "memory: era"),
        ({"optimizer": {"rule": "adam8"}}, "optimizer: rule"),
        ({"flops": {"batch": 0}}, "flops: batch"),
    ],
)
def test_unknown_meters_and_options_are_errors_with_the_nearest_name(meters, message):
    with pytest.raises(ConfigError, match=message):
        parse_meters(meters)


def test_a_wrong_measurement_is_named_in_the_error():
    class Wrong(FakeProject):
        def paper(self, name):
            return (
                super()
                .paper(name)
                .model_copy(
                    update={
                        "measurements": {
                            "odd": Measurement(model="bert", meters={"storage": {"bits": {"layer_linear": 1}}})
                        }
                    }
                )
            )

    with pytest.raises(
        ConfigError, match=r"config/papers/one/paper.yaml: measurements.odd: .*did you mean 'layer_linears'"
    ):
        measure_paper(Wrong(), "one")


def test_meters_are_checked_without_importing_torch():
    code = "import sys, replica.meters, replica.meters.registry as r; r.parse_meters({'flops': {}}); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_meter_has_a_runner_and_says_what_it_assumes():
    assert set(METERS) == set(RUNNERS)
    assert all(options.assumption and options.results for options in METERS.values())


def test_the_program_says_an_unknown_paper_in_one_line(tmp_path):
    command = [
        sys.executable,
        str(ROOT / "scripts" / "structural.py"),
        "--paper",
        "minilmm",
        "--root",
        str(ROOT),
        "--out",
        str(tmp_path / "x"),
    ]
    done = subprocess.run(
        command, capture_output=True, encoding="utf-8", check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "unknown paper 'minilmm'" in done.stderr
    assert not (tmp_path / "x").exists()
