"""What a run costs, as its training follows it: bytes alive in a step, and FLOPs of the finished model."""

from __future__ import annotations

import torch
from torch import nn

from replica.models import build
from replica.training.cost import FIRST, STEPS, PeakMemory, forward_flops

from .small_models import entry

WEIGHT = 4 * 1000 * 1000


def _step(model, optimizer, rows=8):
    model(torch.ones(rows, 1000)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def _followed(model, optimizer, steps):
    memory = PeakMemory()
    for _ in range(steps):
        memory.begin(model, optimizer)
        _step(model, optimizer)
        memory.end(model)
    return memory.facts()


def test_a_step_holds_weight_gradient_and_states():
    model = nn.Linear(1000, 1000, bias=False)
    plain = _followed(model, torch.optim.SGD(model.parameters(), lr=0.1), 3)
    # the weight and its gradient; a batch of 8 x 1000 and its output are 32 kB each, and few of them are alive at once
    assert 2 * WEIGHT <= plain["peak_bytes"] <= 2 * WEIGHT + 10 * 32_000
    assert plain["steps"] == 2
    model = nn.Linear(1000, 1000, bias=False)
    heavy = _followed(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), 3)
    assert heavy["peak_bytes"] - plain["peak_bytes"] == WEIGHT  # one state for each weight


def test_a_frozen_weight_has_no_gradient():
    model = nn.Sequential(nn.Linear(1000, 1000, bias=False).requires_grad_(False), nn.Linear(1000, 10, bias=False))
    found = _followed(model, torch.optim.SGD(model[1].parameters(), lr=0.1), 2)
    assert WEIGHT <= found["peak_bytes"] < 1.2 * WEIGHT


def test_the_first_step_and_those_after_the_followed_ones_do_not_count():
    model = nn.Linear(1000, 10, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert _followed(model, optimizer, FIRST - 1) == {}
    memory = PeakMemory()
    for number in range(1, FIRST + STEPS + 1):
        memory.begin(model, optimizer)
        _step(model, optimizer, rows=1000 if number in (1, FIRST + STEPS) else 8)
        memory.end(model)
    assert memory.facts()["steps"] == STEPS
    assert memory.facts()["peak_bytes"] < 4 * 1000 * 1000  # a batch of 1000 rows alone would be that


def test_a_step_that_fails_leaves_nothing_on():
    model = nn.Linear(1000, 10, bias=False)
    memory = PeakMemory()
    for _ in range(FIRST):
        memory.begin(model, None)
        if memory._taken < FIRST:
            memory.end(model)
    assert torch.utils._python_dispatch._len_torch_dispatch_stack() == 1
    memory.close()
    assert torch.utils._python_dispatch._len_torch_dispatch_stack() == 0
    assert memory.facts() == {}


def test_flops_of_a_finished_model_are_counted_without_its_values():
    model = build(entry("bert"), head="classification", labels=2, seed=0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = forward_flops(model, 16)
    config = model.config
    width, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    # 2 FLOPs per weight and token: four square matrices and two of the feed-forward block; scores and their product with the values
    block = 16 * 2 * (4 * width**2 + 2 * width * inner) + 2 * 2 * 16 * 16 * width
    head = 2 * width**2 + 2 * width * 2
    assert found == {"forward": layers * block + head, "length": 16}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_length_that_a_model_cannot_take_is_said(capsys):
    model = build(entry("bert"), head="classification", labels=2, seed=0)
    assert forward_flops(model, 10_000) == {}
    assert "FLOPs of the forward pass were not counted" in capsys.readouterr().err
