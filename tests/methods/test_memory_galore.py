"""GaLore's optimizer: against its algorithm written out for one matrix, torch's AdamW, and its own count of state."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from replica import models
from replica.config.asset_schema import ModelEntry
from replica.errors import ConfigError
from replica.meters.optimizers import optimizer_bytes
from replica.meters.options import OptimizerOptions
from replica.methods import Context, parse
from replica.methods.memory.codes import Store
from replica.methods.memory.galore.method import GaLoreAdamW
from tests.methods.peft_models import tiny

RATE, SCALE, DECAY = 0.05, 0.25, 0.1


def algorithm(weight: torch.Tensor, gradients: list[torch.Tensor], rank: int, every: int) -> torch.Tensor:
    """Algorithm 2 of Zhao et al. 2024 on one matrix, in double precision; a tall matrix is the transposed problem.

    The signs of singular vectors are free, and moments outlive a projector: both sides must decompose the same matrix.
    """
    tall = weight.shape[0] > weight.shape[1]
    weight = (weight.T if tall else weight).clone()
    first = second = projector = None
    for step, gradient in enumerate(gradients):
        if step % every == 0:
            left, _, right = torch.linalg.svd(gradient, full_matrices=False)
            projector = right[:rank].T if tall else left[:, :rank]
        gradient = gradient.T if tall else gradient
        low = projector.T @ gradient
        if first is None:
            first, second = torch.zeros_like(low), torch.zeros_like(low)
        first = 0.9 * first + 0.1 * low
        second = 0.999 * second + 0.001 * low**2
        normal = (first / (1 - 0.9 ** (step + 1))) / ((second / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
        weight = weight - RATE * DECAY * weight - RATE * SCALE * projector @ normal
    return weight.T if tall else weight


@pytest.mark.parametrize("shape", [(6, 10), (10, 6), (7, 7)])
@pytest.mark.parametrize("every", [1, 3, 100])
def test_a_matrix_follows_the_algorithm(shape, every):
    torch.manual_seed(0)
    start = torch.randn(shape, dtype=torch.float64)
    gradients = [torch.randn(shape, dtype=torch.float32).double() for _ in range(7)]
    parameter = nn.Parameter(start.clone())
    groups = [{"params": [parameter], "rank": 2}]
    optimizer = GaLoreAdamW(
        groups, lr=RATE, weight_decay=DECAY, update_every=every, scale=SCALE, eps=1e-8, form="algorithm-2"
    )
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    torch.testing.assert_close(parameter.data, algorithm(start, gradients, 2, every), rtol=1e-4, atol=1e-5)
    assert torch.linalg.matrix_rank(parameter.data - (1 - RATE * DECAY) ** 7 * start, rtol=1e-5) == (
        2 if every == 100 else min(shape) if every == 1 else 6
    )


def released(weight: torch.Tensor, gradients: list[torch.Tensor], rank: int, eight_bits: bool = False) -> torch.Tensor:
    """The released optimizer's step on one matrix, one projector for all steps, in double precision.

    With 8 bits epsilon is 1e-8 and joins the corrected root, as in bitsandbytes.
    """
    weight, (rows, columns) = weight.clone(), weight.shape
    left, _, right = torch.linalg.svd(gradients[0], full_matrices=False)
    first = second = 0.0
    for step, gradient in enumerate(gradients, 1):
        low = gradient @ right[:rank].T if rows >= columns else left[:, :rank].T @ gradient
        first, second = 0.9 * first + 0.1 * low, 0.999 * second + 0.001 * low**2
        correction = (1 - 0.999**step) ** 0.5
        normal = first / (second.sqrt() + (correction * 1e-8 if eight_bits else 1e-6))
        back = normal @ right[:rank] if rows >= columns else left[:, :rank] @ normal
        weight = weight - RATE * correction / (1 - 0.9**step) * SCALE * back
        weight = weight - RATE * DECAY * weight
    return weight


@pytest.mark.parametrize("shape", [(6, 10), (10, 6), (7, 7)])
@pytest.mark.parametrize("bits", [32, 8])
def test_by_default_a_matrix_follows_the_released_optimizer(shape, bits):
    """Gradients of 1e-5 show epsilon's place and size; the moments are too small to be kept in 8 bits, so both are exact."""
    torch.manual_seed(0)
    start = torch.randn(shape, dtype=torch.float64)
    gradients = [1e-5 * torch.randn(shape, dtype=torch.float32).double() for _ in range(4)]
    parameter = nn.Parameter(start.clone())
    store = Store("dynamic", 256, 4096, keep_sign=True) if bits == 8 else None
    optimizer = GaLoreAdamW([{"params": [parameter], "rank": 2}], lr=RATE, weight_decay=DECAY, scale=SCALE, store=store)
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    expected = released(start, gradients, 2, eight_bits=bits == 8)
    torch.testing.assert_close(parameter.data, expected, rtol=1e-4, atol=1e-6)


def test_8_bit_first_moments_keep_their_sign():
    _, config = parse({"name": "galore", "rank": 4, "bits": 8})
    found, _ = parse("galore")
    assert found.create(config).optimizer(tiny("bert"), Context()).store.keep_sign


def test_what_is_not_projected_moves_as_torchs_adamw_moves_it():
    torch.manual_seed(0)
    ours, theirs = (nn.Parameter(torch.linspace(-1, 1, 12)) for _ in range(2))
    first = GaLoreAdamW([ours], lr=RATE, weight_decay=DECAY, eps=1e-8, form="algorithm-2")
    second = torch.optim.AdamW([theirs], lr=RATE, weight_decay=DECAY)
    for _ in range(5):
        ours.grad = theirs.grad = torch.randn(12)
        first.step()
        second.step()
    torch.testing.assert_close(ours.data, theirs.data, rtol=1e-5, atol=1e-7)


def made(kind: str = "bert", rank: int = 4):
    found, config = parse({"name": "galore", "rank": rank})
    model = tiny(kind)
    return model, found.create(config).optimizer(model, Context(learning_rate=RATE))


def test_a_step_in_place_is_the_written_out_one_to_the_bit():
    torch.manual_seed(0)
    parameter = nn.Parameter(torch.randn(3, 5))
    expected, optimizer = parameter.detach().clone(), GaLoreAdamW([parameter], lr=0.1, eps=1e-8, form="algorithm-2")
    mean, square = torch.zeros(3, 5), torch.zeros(3, 5)
    for step in (1, 2, 3):
        gradient = torch.randn(3, 5)
        parameter.grad = gradient.clone()
        optimizer.step()
        mean = mean.lerp(gradient, 1 - 0.9)
        square = (square * 0.999).addcmul(gradient, gradient, value=1 - 0.999)
        denominator = square.sqrt() / (1 - 0.999**step) ** 0.5 + 1e-8
        expected = expected.add(mean / denominator / (1 - 0.9**step), alpha=-0.1)
        assert torch.equal(parameter.detach(), expected)


@pytest.mark.parametrize("kind", ["bert", "t5"])
def test_its_state_has_the_bytes_that_the_meter_counts(kind):
    model, optimizer = made(kind)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    tensors = [v for state in optimizer.state.values() for v in state.values() if isinstance(v, torch.Tensor)]
    size = sum(t.untyped_storage().nbytes() for t in tensors)
    assert size == optimizer_bytes(model, OptimizerOptions(rule="galore", rank=4))["bytes"]


def test_stored_state_goes_on_to_equal_bytes():
    model, optimizer = made()
    gradients = [[torch.randn_like(p) for p in model.parameters()] for _ in range(4)]

    def train(model, optimizer, steps):
        for step in steps:
            for parameter, gradient in zip(model.parameters(), gradients[step], strict=True):
                parameter.grad = gradient.clone()
            optimizer.step()

    train(model, optimizer, (0, 1))
    other, resumed = made()
    other.load_state_dict(model.state_dict())
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(model, optimizer, (2, 3))
    train(other, resumed, (2, 3))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_a_closure_is_called_with_gradients():
    parameter = nn.Parameter(torch.ones(3))
    optimizer = GaLoreAdamW([parameter], lr=RATE)

    def closure():
        loss = (parameter**2).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) == 3.0
    assert (parameter < 1).all()


SMALL = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40}


def small(device: str = "cpu"):
    entry = ModelEntry(title="small", architecture="bert", config=SMALL)
    return models.build(entry, head="classification", labels=2, device=device)


def test_state_of_a_step_is_that_of_table_1():
    """mr + 2nr numbers for a matrix of m x n, m <= n; two for each other parameter."""
    found, config = parse({"name": "galore", "rank": 4})
    model, method = small(), found.create(config)
    optimizer = method.optimizer(model, Context(learning_rate=1e-3))
    model(input_ids=torch.randint(0, 64, (2, 5)), labels=torch.tensor([0, 1])).loss.backward()
    optimizer.step()
    matrices = {id(p) for p in method.matrices(model).values()}
    assert len(matrices) == 2 * 6
    total = 0
    for parameter, state in optimizer.state.items():
        numbers = sum(value.numel() for value in state.values() if isinstance(value, torch.Tensor))
        short, long = sorted(parameter.shape) if parameter.dim() == 2 else (0, 0)
        assert numbers == (short * 4 + 2 * long * 4 if id(parameter) in matrices else 2 * parameter.numel())
        total += numbers
    cost = method.cost(small("meta"))
    assert cost["states"] == total
    assert cost["matrices"]["output.dense"]["stored"] == 16 * 40 + 16 * 4 + 2 * 40 * 4


def test_8_bit_moments_have_the_bytes_that_the_meter_counts_and_follow_32_bits():
    torch.manual_seed(0)
    start, gradients = torch.randn(96, 160), [torch.randn(96, 160) for _ in range(5)]
    moved = {}
    for bits in (32, 8):
        parameter = nn.Parameter(start.clone())
        store = Store("dynamic", 256, 4096) if bits == 8 else None
        optimizer = GaLoreAdamW([{"params": [parameter], "rank": 48}], lr=RATE, update_every=2, store=store)
        for gradient in gradients:
            parameter.grad = gradient.clone()
            optimizer.step()
        moved[bits] = parameter.detach() - start
    state = optimizer.state[parameter]
    assert (
        state["exp_avg"].dtype == state["exp_avg_sq"].dtype == torch.uint8 and state["projector"].dtype == torch.float32
    )
    assert sum(state[n].nbytes for n in ("exp_avg", "exp_avg_absmax")) == 48 * 160 + 4 * 48 * 160 // 256
    apart = (moved[8] - moved[32]).norm() / moved[32].norm()
    assert 0 < float(apart) < 0.05
    resumed = GaLoreAdamW([{"params": [nn.Parameter(start.clone())], "rank": 48}], store=Store("dynamic", 256, 4096))
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    [again] = resumed.state.values()
    assert again["exp_avg"].dtype == torch.uint8 and torch.equal(again["exp_avg"], state["exp_avg"])


def test_updates_layer_by_layer_are_those_of_a_step_and_free_the_gradients():
    models_ = []
    for per_layer in (False, True):
        found, config = parse({"name": "galore", "rank": 4, "per_layer": per_layer})
        model = small()
        optimizer = found.create(config).optimizer(model, Context(learning_rate=1e-2, weight_decay=0.1))
        for step in range(3):
            ids = torch.randint(0, 64, (2, 5), generator=torch.Generator().manual_seed(step))
            model(input_ids=ids, labels=torch.tensor([0, 1])).loss.backward()
            assert all((p.grad is None) == per_layer for p in model.parameters())
            optimizer.step()
            optimizer.zero_grad()
        models_.append(model)
    assert all(torch.equal(a, b) for a, b in zip(models_[0].parameters(), models_[1].parameters(), strict=True))
    model(input_ids=ids, labels=torch.tensor([0, 1])).loss.backward()
    with pytest.raises(ConfigError, match="need whole batches at once"):
        model(input_ids=ids, labels=torch.tensor([0, 1])).loss.backward()
