"""Search spaces by brute force, and the line between two networks against a quadratic whose errors are known."""

from __future__ import annotations

import pytest
import torch
from transformers import BertConfig, BertModel

from replica.errors import ConfigError
from replica.meters.linear_path import interpolate, measure_path
from replica.meters.options import SearchSpaceOptions
from replica.meters.search_space import SearchSpace, encoder_macs, encoder_parameters, measure_space

TINY = {"layers": (4, 7, 1), "hidden": (128, 224, 32), "ratio": (2.0, 3.5, 0.5), "heads": (7, 10, 1)}


def test_the_closed_form_counts_what_enumeration_finds():
    by_hand = {
        (layers, hidden, ratio / 2, heads)
        for layers in range(4, 8)
        for hidden in range(128, 225, 32)
        for ratio in range(4, 8)
        for heads in range(7, 11)
    }
    space = SearchSpace(TINY)
    assert {tuple(shape.values()) for shape in space.shapes()} == by_hand
    assert space.count() == len(by_hand) == 256
    found = measure_space(TINY)
    assert found["count"] == found["enumerated"] == 256
    assert (found["encoder_parameters"]["least"], found["encoder_parameters"]["most"]) == (4_437_504, 10_710_672)
    assert SearchSpace({"width": (0.1, 0.7, 0.1)}).count() == 7
    assert "encoder_macs" not in measure_space({"rank": (1, 8, 1)})


@pytest.mark.parametrize(
    "wrong", [{"layers": (4, 7, 2)}, {"layers": (7, 4, 1)}, {"layers": (4, 7, 0)}, {"layers": (4, 7)}]
)
def test_a_range_that_steps_do_not_fill_is_an_error(wrong):
    with pytest.raises(ConfigError, match="layers"):
        SearchSpace(wrong)


def test_the_cost_of_a_shape_is_that_of_the_built_encoder():
    shape = {"layers": 3, "hidden": 96, "ratio": 2.0, "heads": 12}
    config = BertConfig(num_hidden_layers=3, hidden_size=96, intermediate_size=192, num_attention_heads=12)
    with torch.device("meta"):
        model = BertModel(config)
    # the formula counts the pooler's bias twice
    assert encoder_parameters(shape) == sum(p.numel() for p in model.parameters()) + 96
    linears = [m for m in model.encoder.modules() if isinstance(m, torch.nn.Linear)]
    by_hand = 128 * sum(m.weight.numel() for m in linears) + 3 * 2 * 128**2 * 96
    assert encoder_macs(shape) == by_hand


def test_a_point_of_the_line_mixes_both_states():
    first, second = {"w": torch.tensor([2.0]), "n": torch.tensor(3)}, {"w": torch.tensor([-2.0]), "n": torch.tensor(7)}
    assert int(interpolate(first, second, 0.5)["n"]) == 3
    assert float(interpolate(first, second, 0.25)["w"]) == -1.0
    with pytest.raises(ConfigError, match="same network"):
        interpolate(first, {"w": torch.zeros(2), "n": torch.tensor(1)}, 0.5)


def test_a_line_between_networks_is_walked_point_by_point():
    with torch.device("meta"):
        model = BertModel(BertConfig(num_hidden_layers=1, hidden_size=8, num_attention_heads=2, intermediate_size=16))
    found = measure_path(model, 4)
    assert found["evaluations"] == 4
    assert found["step"] == pytest.approx(1 / 3)
    assert found["interpolated"] == sum(p.numel() for p in model.parameters())
    assert (found["stable_below"], found["matching_within"]) == (2.0, 0.2)


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ({"layers": (1, 1e9, 1)}, "1e\\+09 shapes"),
        ({"layers": (1, 1000, 1), "hidden": (1, 1e6, 1)}, "1e\\+09 shapes"),
        ({"layers": (1, 4, 0)}, "from 1 to 4 by 0"),
        ({"layers": (4, 1, 1)}, "from 4 to 1 by 1"),
    ],
)
def test_a_space_without_end_is_refused_before_it_is_counted(ranges, message):
    with pytest.raises(ValueError, match=message):
        SearchSpaceOptions(ranges=ranges)
