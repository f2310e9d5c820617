"""The layers of adapters against Kronecker products, and the random projection against explicit matrices."""

from __future__ import annotations

import math

import pytest
import torch

from replica.methods.peft.intrinsic_said.method import Fastfood, hadamard
from replica.methods.peft.layers import (
    Adapter,
    FullLinear,
    HypercomplexLinear,
    LowRankHypercomplexLinear,
    LowRankLinear,
    Rule,
)


def randomised(layer: torch.nn.Module) -> torch.nn.Module:
    layer = layer.double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    return layer


@pytest.mark.parametrize(("inputs", "outputs", "n"), [(24, 8, 4), (8, 24, 4), (12, 36, 2), (36, 12, 12), (6, 9, 3)])
def test_low_rank_hypercomplex_layer_is_x_times_a_sum_of_kronecker_products(inputs, outputs, n):
    torch.manual_seed(0)
    rule = Rule(n).double()
    torch.nn.init.normal_(rule.weight)
    layer = randomised(LowRankHypercomplexLinear(inputs, outputs, rule))
    x = torch.randn(2, 5, inputs, dtype=torch.float64)
    h = sum(torch.kron(rule.weight[i], torch.outer(layer.left[i], layer.right[i])) for i in range(n))
    assert h.shape == (inputs, outputs)
    torch.testing.assert_close(layer(x), x @ h + layer.bias, rtol=1e-12, atol=1e-12)


def test_gradients_of_the_factored_product_are_those_of_the_kronecker_product():
    torch.manual_seed(1)
    rule = Rule(4).double()
    torch.nn.init.normal_(rule.weight)
    layer = randomised(LowRankHypercomplexLinear(24, 8, rule))
    x, weight = torch.randn(7, 24, dtype=torch.float64), torch.randn(7, 8, dtype=torch.float64)
    wanted = [rule.weight, layer.left, layer.right]
    ours = torch.autograd.grad((layer(x) * weight).sum(), wanted)
    h = sum(torch.kron(rule.weight[i], torch.outer(layer.left[i], layer.right[i])) for i in range(4))
    for mine, theirs in zip(ours, torch.autograd.grad(((x @ h) * weight).sum(), wanted), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("inputs", "outputs", "n"), [(24, 8, 4), (36, 24, 12)])
def test_hypercomplex_layer_is_x_times_a_sum_of_kronecker_products(inputs, outputs, n):
    torch.manual_seed(2)
    layer = randomised(HypercomplexLinear(inputs, outputs, n, 0.01))
    x = torch.randn(3, inputs, dtype=torch.float64)
    h = sum(torch.kron(layer.rule[i], layer.weight[i]) for i in range(n))
    torch.testing.assert_close(layer(x), x @ h + layer.bias, rtol=1e-12, atol=1e-12)


def test_low_rank_layer_multiplies_by_the_product_of_its_factors():
    torch.manual_seed(3)
    layer = randomised(LowRankLinear(10, 6, 2))
    x = torch.randn(4, 10, dtype=torch.float64)
    torch.testing.assert_close(layer(x), x @ (layer.left @ layer.right) + layer.bias)
    assert torch.linalg.matrix_rank(layer.left @ layer.right) == 2


def test_initial_values_follow_the_papers_distributions():
    seeds = torch.Generator().manual_seed(0)
    layer = LowRankHypercomplexLinear(4000, 800, Rule(4))
    layer.reset(seeds)
    for values, fans in ((layer.left, 1000 + 1), (layer.right, 1 + 200)):
        bound = math.sqrt(2) * math.sqrt(6 / fans)
        assert 0.97 * bound < values.abs().max() <= bound
    assert not layer.bias.any()
    full = FullLinear(500, 400, 0.01)
    full.reset(seeds)
    assert abs(full.weight.detach().std().item() - 0.01) < 2e-4
    assert not full.bias.any()


def test_adapter_adds_to_its_input_what_the_bottleneck_gives():
    torch.manual_seed(4)
    adapter = Adapter(FullLinear(8, 2, 0.01), FullLinear(2, 8, 0.01), "gelu_new")
    x = torch.randn(5, 8)
    inner = x @ adapter.down.weight.T + adapter.down.bias
    gelu = 0.5 * inner * (1 + torch.tanh(math.sqrt(2 / math.pi) * (inner + 0.044715 * inner**3)))
    torch.testing.assert_close(adapter(x), x + gelu @ adapter.up.weight.T + adapter.up.bias)


def test_dropout_of_an_adapter_scales_the_bottleneck_and_leaves_the_input():
    torch.manual_seed(4)
    norm = torch.nn.LayerNorm(8)
    torch.nn.init.normal_(norm.weight)
    adapter = Adapter(FullLinear(8, 64, 1.0), FullLinear(64, 8, 1.0), "relu", norm, 0.25)
    adapter.reset(torch.Generator().manual_seed(0))
    x = torch.randn(500, 8)
    centred = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    inner = (centred * norm.weight + norm.bias) @ adapter.down.weight.T
    torch.manual_seed(7)
    output = adapter(x)
    torch.manual_seed(7)
    open_ = torch.nn.functional.dropout(torch.ones(500, 64), 0.25)
    torch.testing.assert_close(output, x + (inner.relu() * open_) @ adapter.up.weight.T, rtol=1e-4, atol=1e-4)
    # 32,000 numbers, of which a share of 0.25 is zero within five standard errors of 0.0024
    assert abs(float((open_ == 0).float().mean()) - 0.25) < 0.013
    torch.testing.assert_close(adapter.eval()(x), x + inner.relu() @ adapter.up.weight.T, rtol=1e-4, atol=1e-4)


def test_hadamard_matrix_has_the_signs_of_common_bits():
    matrix = hadamard(16)
    for row in range(16):
        for column in range(16):
            assert matrix[row, column] == (-1) ** bin(row & column).count("1")


def test_fastfood_is_the_product_of_its_five_matrices():
    n, outputs = 16, 40
    projection = Fastfood(n, outputs, seed=5, device=torch.device("cpu"))
    x = torch.randn(n)
    h, rows = hadamard(n), []
    for block in range(3):
        permutation = torch.eye(n)[projection.order[block]]
        rows.append(
            h @ torch.diag(projection.gauss[block]) @ permutation @ h @ torch.diag(projection.signs[block].float())
        )
    torch.testing.assert_close(
        projection(x, hadamard(4), hadamard(4)), (torch.cat(rows) @ x)[:outputs], rtol=1e-4, atol=1e-5
    )


def test_fastfood_keeps_the_norm_and_spreads_it_over_the_outputs():
    n = 1024
    projection = Fastfood(n, 8 * n, seed=1, device=torch.device("cpu"))
    x = torch.randn(n, generator=torch.Generator().manual_seed(2))
    y = projection(x, hadamard(32), hadamard(32))
    assert abs(float(y.norm() / x.norm()) - 1) < 0.05
    blocks = y.view(8, n).norm(dim=1) / x.norm()
    torch.testing.assert_close(blocks, torch.full((8,), 8**-0.5), rtol=0.15, atol=0)


def test_fastfood_is_the_same_for_a_seed_and_another_for_another():
    first, again, other = (Fastfood(8, 20, seed, torch.device("cpu")) for seed in (1, 1, 2))
    assert torch.equal(first.gauss, again.gauss)
    assert torch.equal(first.order, again.order)
    assert not torch.equal(first.gauss, other.gauss)
