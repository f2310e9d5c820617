"""Measurements that cannot be: each is a ConfigError in one line that says what would be right."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from replica.config import load_project
from replica.config.schema import Measurement, Paper
from replica.config.validation import validate
from replica.errors import ConfigError
from replica.measure.structural import measure_paper

from .small_project import paper

ROOT = Path(__file__).parents[2]
SMALL = load_project(ROOT, papers=[])


class OnePaper:
    """The project with one paper that has one measurement."""

    def __init__(self, given):
        self.given = given

    def __getattr__(self, name):
        return getattr(SMALL, name)

    def paper(self, name):
        content = paper(claims=[], runs={}, measurements={"odd": {"model": "smoke-bert", **self.given}})
        return validate(Paper, content, "config/papers/one/paper.yaml")


COUNT = {"parameters": {}}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model": "smoke-brt", "meters": COUNT}, "unknown model 'smoke-brt'; did you mean 'smoke-bert'?"),
        ({"meters": {"parametrs": {}}}, "unknown meter 'parametrs'; did you mean 'parameters'?"),
        ({"meters": COUNT, "head": "taging"}, "unknown head 'taging'; did you mean 'tagging'?"),
        ({"meters": COUNT, "labels": 0}, "labels: Input should be greater than or equal to 1"),
        ({"meters": COUNT, "methods": ["lorra"]}, "unknown method 'lorra'; did you mean 'lora'?"),
        ({"meters": COUNT, "methods": [{"name": "lora", "rank": 33}]}, "rank 33 is above the width 32"),
        (
            {"meters": COUNT, "methods": [{"name": "lora", "rank": 0}]},
            "rank: Input should be greater than or equal to 1",
        ),
        ({"meters": COUNT, "config": {"num_attention_heads": 3}}, "num_attention_heads 3 does not divide the width 32"),
        ({"meters": COUNT, "config": {"hidden_size": 0}}, "hidden_size is 0, which makes no model"),
        (
            {"meters": COUNT, "config": {"max_position_embeddings": 0}},
            "max_position_embeddings is 0, which makes no model",
        ),
        (
            {"meters": COUNT, "config": {"hiden_size": 32}},
            "no configuration field 'hiden_size'; did you mean 'hidden_size'?",
        ),
        ({"model": "smoke-vit", "meters": COUNT, "config": {"patch_size": 0}}, "patch_size is 0, which makes no model"),
        ({"model": "smoke-vit", "meters": COUNT, "config": {"patch_size": 999}}, "patch_size 999 is above image_size"),
        ({"meters": {"flops": {"batch": 0}}}, "batch: Input should be greater than or equal to 1"),
        ({"meters": {"flops": {"length": 129}}}, "length 129 is beyond the 128 positions"),
        ({"meters": {"flops": {"density": 1.5}}}, "Input should be less than or equal to 1"),
        ({"meters": {"flops": {"density": {"layer_linaers": 0.5}}}}, "did you mean 'layer_linears'?"),
        ({"meters": {"storage": {"bits": -8}}}, "Input should be greater than 0"),
        ({"meters": {"storage": {"bits": {"layer_linaers": 8}}}}, "did you mean 'layer_linears'?"),
        ({"meters": {"storage": {"density": {"layer_linears": 0}}}}, "Input should be greater than 0"),
        ({"meters": {"storage": {"index": -1}}}, "Input should be greater than or equal to 1"),
        ({"meters": {"optimizer": {"rule": "adam"}}}, "rule: Input should be 'adamw', 'adamw8bit'"),
        ({"meters": {"optimizer": {"rule": "galore"}}}, "galore needs its `rank`"),
        ({"meters": {"optimizer": {"rule": "adamw", "rank": 4}}}, "`rank` belongs to galore and galore8bit"),
        ({"meters": {"optimizer": {"rule": "galore", "rank": 33}}}, "rank 33 does not lie between 1 and 32"),
        ({"meters": {"memory": {"era": "2020"}}}, "era: Input should be 'today' or '2021'"),
        ({"meters": {"memory": {"batch": -2}}}, "batch: Input should be greater than or equal to 1"),
        ({"meters": {"memory": {"optimizer": "galore8bit"}}}, "galore8bit needs its `rank`"),
        (
            {"meters": {"method_cost": {"lenght": 8}}, "methods": ["gradual-magnitude-pruning"]},
            "no method of the measurement takes 'lenght'",
        ),
        ({"model": "lenet-5", "meters": COUNT, "methods": ["adapter"]}, "the model cannot be measured"),
    ],
)
def test_what_cannot_be_measured_is_one_line(given, message):
    with pytest.raises(ConfigError) as caught:
        measure_paper(OnePaper(given), "one")
    said = str(caught.value)
    assert message in said and "\n" not in said
    assert said.startswith("config/papers/one/paper.yaml: measurements.odd") and "Traceback" not in said


def test_labels_that_no_memory_holds_are_refused_before_anything_is_built():
    with pytest.raises(ValueError, match="less than or equal to 1000000"):
        Measurement(model="smoke-bert", meters={}, labels=10**18)


@pytest.mark.parametrize(
    "arguments", [["measure"], ["measure", "smoke-bert", "--budget", "-1GB"], ["measure", "m", "--bach", "3"], ["pln"]]
)
def test_flags_that_do_not_parse_are_one_line(arguments):
    done = subprocess.run(
        [sys.executable, "-m", "replica.cli", *arguments], capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 2
    [line] = done.stderr.strip().splitlines()
    assert line.startswith("error: ") and "--help`" in line
