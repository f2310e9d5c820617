"""Densities over layers, costs of sparse training steps and rounds of pruning against independent arithmetic."""

from __future__ import annotations

import itertools
import math

import pytest

from replica.methods.pruning.iterative_magnitude_pruning.method import Rounds, rounds_to
from replica.methods.pruning.sparse_training.densities import erdos_renyi, layer_zeros
from replica.methods.pruning.sparse_training.method import STEP_FLOPS

SHAPES = {
    "stem": (64, 3, 7, 7),
    "narrow": (64, 64, 1, 1),
    "wide": (512, 512, 3, 3),
    "down": (1024, 512, 1, 1),
    "out": (1000, 2048),
}


def sizes(shapes):
    return {name: math.prod(shape) for name, shape in shapes.items()}


def test_uniform_prunes_every_layer_alike():
    zeros = layer_zeros(SHAPES, 0.9)
    assert zeros == {name: size * 9 // 10 for name, size in sizes(SHAPES).items()}
    assert layer_zeros({"a": (10, 10)}, 0.7) == {"a": 70}  # 0.7 * 100 is a little under 70 as a float
    assert layer_zeros(SHAPES, 0.0) == dict.fromkeys(SHAPES, 0)


@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.8, 0.9, 0.99])
def test_erdos_renyi_densities_follow_the_dimensions_and_meet_the_budget(kernel, sparsity):
    densities = erdos_renyi(SHAPES, sparsity, kernel=kernel)
    budget = sum(size - math.floor(sparsity * size + 1e-9) for size in sizes(SHAPES).values())
    assert sum(densities[name] * size for name, size in sizes(SHAPES).items()) == pytest.approx(budget)
    assert all(0 < density <= 1 for density in densities.values())
    free = [name for name in SHAPES if densities[name] < 1]

    def raw(name):
        shape = SHAPES[name] if kernel else SHAPES[name][:2]
        return sum(shape) / math.prod(shape)

    for a, b in itertools.pairwise(free):
        assert densities[a] / densities[b] == pytest.approx(raw(a) / raw(b))
    assert free, "some layer must pay"
    assert min(raw(name) for name in SHAPES if name not in free) > max(map(raw, free)) if len(free) < 5 else True


def test_erdos_renyi_without_the_kernel_looks_at_outputs_and_inputs_only():
    shapes = {"one": (40, 20, 1, 1), "three": (40, 20, 3, 3)}
    densities = erdos_renyi(shapes, 0.95, kernel=False)
    assert densities["one"] == pytest.approx(densities["three"])
    kernel = erdos_renyi(shapes, 0.95)
    assert kernel["one"] / kernel["three"] == pytest.approx((62 / 800) / (66 / 7200))


@pytest.mark.parametrize("interval", [1, 7, 100])
def test_costs_of_a_step_are_those_of_a_cycle_counted_one_by_one(interval):
    sparse, dense = 3.0, 20.0
    cycle = 0.0
    for step in range(interval + 1):
        cycle += sparse  # forward
        cycle += sparse  # gradient of the activations
        cycle += dense if step == interval else sparse  # gradient of the weights, dense where masks move
    assert STEP_FLOPS["rigl"](sparse, dense, interval) == pytest.approx(cycle / (interval + 1))
    assert STEP_FLOPS["snfs"](sparse, dense, interval) == 2 * sparse + dense
    assert STEP_FLOPS["set"](sparse, dense, interval) == STEP_FLOPS["static"](sparse, dense, interval) == 9


def test_rounds_leave_what_cutting_one_by_one_leaves():
    rounds = Rounds(0.2, 11)
    left, expected = 267_264, [267_264]
    for _ in range(11):
        left -= round(left / 5)
        expected.append(left)
    assert rounds.remaining(267_264) == expected
    assert rounds.sparsity(11) == pytest.approx(1 - 0.8**11)
    assert rounds.epochs(160) == 1760
    assert rounds.epochs(160, ticket=True) == 1920


@pytest.mark.parametrize(
    ("target", "rate"), [(0.9, 0.2), (0.2, 0.2), (0.36, 0.2), (0.5, 0.5), (0.999, 0.1), (0.01, 0.9)]
)
def test_rounds_to_is_the_least_number_that_suffices(target, rate):
    number = rounds_to(target, rate)
    assert Rounds(rate, number).sparsity(number) >= target
    assert number == 1 or Rounds(rate, number).sparsity(number - 1) < target


@pytest.mark.parametrize("total", [3, 10, 101])
def test_every_step_belongs_to_one_training(total):
    rounds = Rounds(0.2, 2)
    seen = [rounds.training_of(step, total) for step in range(total)]
    assert all(first <= step < after for step, (_, first, after) in enumerate(seen))
    assert {number for number, _, _ in seen} == {0, 1, 2}
    lengths = {after - first for _, first, after in seen}
    assert max(lengths) - min(lengths) <= 1
