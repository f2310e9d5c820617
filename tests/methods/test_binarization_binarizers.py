"""Binarizers against a numpy reference written from the equations: values, gradients, scales and packed bits."""

import numpy as np
import pytest
import torch

from replica.methods.binarization.bipft.binarizers import (
    ActivationScale,
    BinaryProduct,
    ProbabilityBinarizer,
    RowBinarizer,
    SignedBinarizer,
)
from replica.methods.binarization.bipft.binary_layers import (
    BinaryEmbedding,
    BinaryLinear,
    PackedEmbedding,
    PackedLinear,
)
from replica.methods.bits import pack_bits, unpack_bits


def sign(values):
    """sign(0) is +1: one bit has no third value."""
    return np.where(values >= 0, 1.0, -1.0)


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def tensor(array, grad=True):
    return torch.tensor(array, dtype=torch.float64, requires_grad=grad)


def test_signed_binarizer_has_two_values_a_window_and_a_scaled_alpha_gradient(rng):
    values, gradient, alpha = rng.normal(size=(3, 4, 5)), rng.normal(size=(3, 4, 5)), 0.7
    values[0, 0, 0] = 0.0
    x, a = tensor(values), tensor(alpha)
    out = SignedBinarizer.apply(x, a)
    out.backward(tensor(gradient, grad=False))
    np.testing.assert_array_equal(out.detach().numpy(), alpha * sign(values))
    np.testing.assert_allclose(x.grad.numpy(), gradient * (np.abs(values / alpha) <= 1))
    np.testing.assert_allclose(a.grad.item(), (sign(values) * gradient).sum() / np.sqrt(60))


def test_attention_probabilities_become_zero_or_alpha(rng):
    raw = rng.normal(size=(2, 3, 6, 6))
    values = np.exp(raw) / np.exp(raw).sum(-1, keepdims=True)
    gradient, alpha = rng.normal(size=values.shape), 0.25
    x, a = tensor(values), tensor(alpha)
    out = ProbabilityBinarizer.apply(x, a)
    out.backward(tensor(gradient, grad=False))
    ratio = values / alpha
    np.testing.assert_allclose(out.detach().numpy(), np.where(ratio > 0.5, alpha, 0.0))
    inside = ratio <= 1
    assert inside.any() and not inside.all()
    np.testing.assert_allclose(x.grad.numpy(), gradient * inside)
    slope = np.where(inside, np.round(ratio) - ratio, 1.0)
    np.testing.assert_allclose(a.grad.item(), (slope * gradient).sum() / np.sqrt(values.size))


@pytest.mark.parametrize("binarizer", [SignedBinarizer, ProbabilityBinarizer])
def test_alpha_never_acts_below_its_floor(binarizer):
    out = binarizer.apply(tensor([0.3, 0.6]), tensor(-2.0))
    np.testing.assert_allclose(out.detach().numpy(), [1e-5, 1e-5])


@pytest.mark.parametrize("with_bias", [True, False])
def test_binary_product_follows_the_equations_by_hand(rng, with_bias):
    values, weight = rng.normal(size=(2, 3, 6)), rng.normal(size=(4, 6)) + 0.3
    shift, alpha, bias = rng.normal(size=6), 0.8, rng.normal(size=4) * with_bias
    gradient = rng.normal(size=(2, 3, 4))
    x, w, s, a, b = tensor(values), tensor(weight), tensor(shift), tensor(alpha), tensor(bias)
    out = BinaryProduct.apply(x, w, s, a, b if with_bias else None, torch.float64)
    out.backward(tensor(gradient, grad=False))

    binary_weight = np.abs(weight).mean() * sign(weight - weight.mean())
    shifted = values + shift
    binary = alpha * sign(shifted)
    np.testing.assert_allclose(out.detach().numpy(), binary @ binary_weight.T + bias, atol=1e-12)
    into_binary = gradient @ binary_weight
    into_values = into_binary * (np.abs(shifted / alpha) <= 1)
    np.testing.assert_allclose(x.grad.numpy(), into_values)
    np.testing.assert_allclose(s.grad.numpy(), into_values.sum((0, 1)))
    np.testing.assert_allclose(a.grad.item(), (sign(shifted) * into_binary).sum() / np.sqrt(values.size))
    # plain identity to the latent weight: the gradient of W_b, unclipped
    np.testing.assert_allclose(w.grad.numpy(), np.einsum("bto,bti->oi", gradient, binary))
    if with_bias:
        np.testing.assert_allclose(b.grad.numpy(), gradient.sum((0, 1)))


def test_a_weight_equal_to_the_mean_counts_as_positive():
    weight = tensor([[1.0, 2.0, 3.0]])
    out = BinaryProduct.apply(tensor([[1.0, 1.0, 1.0]]), weight, tensor([0.0] * 3), tensor(1.0), None, torch.float64)
    assert out.item() == 2 * (-1 + 1 + 1)


def test_embedding_rows_have_their_own_scale_and_the_mean_of_the_matrix(rng):
    weight = rng.normal(size=(7, 5)) + 0.2
    embedding = torch.nn.Embedding(7, 5).double()
    embedding.weight.data.copy_(torch.tensor(weight))
    ids = torch.tensor([[1, 4, 4], [0, 6, 2]])
    out = BinaryEmbedding(embedding)(ids)
    scales = np.abs(weight).mean(1, keepdims=True)
    np.testing.assert_allclose(out.detach().numpy(), (scales * sign(weight - weight.mean()))[ids.numpy()])
    gradient = rng.normal(size=(2, 3, 5))
    out.backward(torch.tensor(gradient))
    wanted = np.zeros((7, 5))
    np.add.at(wanted, ids.numpy(), gradient)
    np.testing.assert_allclose(embedding.weight.grad.numpy(), wanted)
    assert RowBinarizer.apply(torch.zeros(2, 3), torch.tensor(0.1)).eq(0).all()  # an all-zero row has scale 0


@pytest.mark.parametrize("factor", [2.0, 4.0])
def test_alpha_starts_by_the_first_training_batch_and_stays(factor, rng):
    first, second = torch.tensor(rng.normal(size=(4, 6))).float(), torch.tensor(rng.normal(size=(4, 6))).float() * 9
    scale = ActivationScale(factor, "cpu")
    scale.eval()
    assert scale(first).item() == pytest.approx(factor * first.abs().mean().item(), rel=1e-6)
    assert not scale.initialised and scale.alpha.item() == 1.0  # a look in eval mode keeps nothing
    scale.train()
    assert scale(first).item() == pytest.approx(factor * np.abs(first.numpy()).mean(), rel=1e-6)
    kept = scale.alpha.item()
    assert scale(second).item() == kept

    other = ActivationScale(factor, "cpu")
    other.load_state_dict(scale.state_dict())
    assert other(second).item() == kept  # stored and loaded, not started again
    fresh = ActivationScale(factor, "cpu").state_dict()
    other.load_state_dict(fresh)
    assert other(second).item() != kept  # and a state from before any batch starts by the next one


@pytest.mark.parametrize("columns", [1, 7, 8, 9, 64, 100])
def test_packed_bits_are_numpys_and_come_back(columns, rng):
    positive = rng.random((5, columns)) > 0.5
    packed = pack_bits(torch.tensor(positive))
    assert packed.dtype == torch.uint8 and packed.shape == (5, -(-columns // 8))
    np.testing.assert_array_equal(packed.numpy(), np.packbits(positive, axis=-1, bitorder="little"))
    np.testing.assert_array_equal(unpack_bits(packed, columns).numpy(), positive)


def test_packed_layers_equal_latent_ones_to_the_last_bit(rng):
    torch.manual_seed(3)
    linear = BinaryLinear(torch.nn.Linear(13, 6))
    linear.shift.data.normal_()
    values = torch.randn(4, 5, 13)
    linear(values)
    assert torch.equal(PackedLinear(linear)(values), linear.eval()(values))
    embedding = BinaryEmbedding(torch.nn.Embedding(11, 13))
    ids = torch.randint(0, 11, (4, 5))
    assert torch.equal(PackedEmbedding(embedding)(ids), embedding(ids))


def test_autocast_changes_products_not_scales():
    torch.manual_seed(3)
    linear = BinaryLinear(torch.nn.Linear(64, 8))
    values = torch.randn(10, 64)
    exact = linear(values)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = linear(values)
        narrow.square().sum().backward()
    assert narrow.dtype == torch.float32
    assert torch.equal(narrow, exact)  # sums of up to 64 signs are whole numbers that bfloat16 holds
    assert linear.weight.grad.dtype == linear.scale.alpha.grad.dtype == torch.float32
