"""The integer grids: simulated quantisation against torch's own, observers, packing, edge cases of rounding."""

from __future__ import annotations

import pytest
import torch
from torch.ao.quantization import MinMaxObserver, MovingAverageMinMaxObserver

from replica.errors import ConfigError
from replica.methods.quantization.quantization_aware_training.fake_quantize import (
    RangeObserver,
    activation_grid,
    fake_quantize,
    fake_quantize_weight,
    quantize_weight,
    weight_scale,
)
from replica.methods.quantization.quantization_aware_training.packed_int8 import pack, packed_bytes, unpack


@pytest.mark.parametrize(("low", "high", "zero_point"), [(-128, 127, 0), (0, 255, 37), (0, 255, 255)])
def test_values_and_gradients_are_those_of_torch(low, high, zero_point):
    generator = torch.Generator().manual_seed(3)
    ours = (torch.randn(500, generator=generator) * 20).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    scale = torch.tensor(0.137)
    out = fake_quantize(ours, scale, torch.tensor(float(zero_point)), low, high)
    reference = torch.fake_quantize_per_tensor_affine(theirs, scale, torch.tensor(zero_point).int(), low, high)
    assert torch.equal(out, reference)
    weights = torch.randn(500, generator=generator)
    (out * weights).sum().backward()
    (reference * weights).sum().backward()
    assert torch.equal(ours.grad, theirs.grad)


def test_ties_round_to_even_and_ends_are_clipped():
    x = torch.tensor([-1000.0, -2.5, -1.5, -0.5, 0.0, 0.5, 1.5, 2.5, 1000.0], requires_grad=True)
    out = fake_quantize(x, torch.tensor(1.0), torch.tensor(0.0), -128, 127)
    assert out.tolist() == [-128, -2, -2, 0, 0, 0, 2, 2, 127]
    out.sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 1, 1, 1, 1, 1, 0]


def test_weight_scale_is_that_of_torchs_min_max_observer():
    weight = torch.randn(12, 7, generator=torch.Generator().manual_seed(0))
    observer = MinMaxObserver(dtype=torch.qint8, qscheme=torch.per_tensor_symmetric, quant_min=-128, quant_max=127)
    observer(weight)
    scale, zero_point = observer.calculate_qparams()
    assert float(weight_scale(weight)) == float(scale)
    assert int(zero_point) == 0
    assert float(weight_scale(torch.tensor([2.55, -1.0]))) == pytest.approx(0.02)


def test_zero_weights_stay_exactly_zero_and_no_value_moves_more_than_half_a_step():
    weight = torch.randn(32, 32, generator=torch.Generator().manual_seed(1))
    weight[weight.abs() < 1] = 0
    on_grid = fake_quantize_weight(weight)
    assert torch.equal(on_grid[weight == 0], torch.zeros(int((weight == 0).sum())))
    scale = float(weight_scale(weight))
    assert (on_grid - weight).abs().max() <= scale / 2 * 1.001
    integers, again = quantize_weight(weight)
    assert integers.dtype == torch.int8
    assert torch.equal(integers.float() * again, on_grid)


def test_a_matrix_of_zeros_is_no_division_by_zero():
    integers, scale = quantize_weight(torch.zeros(3, 3))
    assert not integers.any()
    assert float(scale) > 0


def test_activation_observer_follows_torchs_moving_average():
    ours = RangeObserver(0.05)
    theirs = MovingAverageMinMaxObserver(averaging_constant=0.05, dtype=torch.quint8, quant_min=0, quant_max=255)
    generator = torch.Generator().manual_seed(2)
    for shift in (0.0, 1.0, -3.0, 5.0):
        x = torch.randn(40, generator=generator) + shift
        ours(x)
        theirs(x)
    scale, zero_point = activation_grid(ours.low, ours.high)
    expected_scale, expected_zero_point = theirs.calculate_qparams()
    assert float(scale) == pytest.approx(float(expected_scale), rel=1e-6)
    assert int(zero_point) == int(expected_zero_point)


@pytest.mark.parametrize(
    ("low", "high", "scale", "zero_point"), [(-1.0, 1.55, 0.01, 100), (0.5, 2.55, 0.01, 0), (-2.55, -1.0, 0.01, 255)]
)
def test_activation_range_is_widened_to_zero(low, high, scale, zero_point):
    found = activation_grid(torch.tensor(low), torch.tensor(high))
    assert float(found[0]) == pytest.approx(scale)
    assert int(found[1]) == zero_point


def test_observer_does_not_move_in_evaluation():
    observer = RangeObserver(0.5).eval()
    x = torch.tensor([-1.0, 3.0])
    assert torch.allclose(observer(x), x, atol=4 / 255)  # unobserved: the range of what it sees
    assert not bool(observer.observed)
    observer.train()(x)
    observer.eval()(10 * x)
    assert (float(observer.low), float(observer.high)) == (-1, 3)


def test_packed_matrices_come_back():
    generator = torch.Generator().manual_seed(4)
    integers = torch.randint(-128, 128, (5, 13), generator=generator, dtype=torch.int8)
    integers[torch.rand(5, 13, generator=generator) < 0.7] = 0
    values, bits = pack(integers, 40, "layer")
    assert (values.numel(), bits.numel()) == (40, 9)  # 65 positions: nine bytes of mask
    assert torch.equal(unpack(values, bits, (5, 13)), integers)
    assert pack(torch.tensor([[0, 3, 0, 0, -1, 0, 0, 0, 7]], dtype=torch.int8), 3, "layer")[1].tolist() == [0b10010, 1]


def test_a_matrix_with_too_many_values_names_its_layer():
    with pytest.raises(ConfigError, match=r"'encoder.0' has 4 nonzero weights of 4"):
        pack(torch.ones(2, 2, dtype=torch.int8), 3, "encoder.0")
    assert packed_bytes(589824, 0.1) == (589824 - 530842, 73728)
