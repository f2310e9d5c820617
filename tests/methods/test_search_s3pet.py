"""Sparse structure search: the shift against a root finder, gradients against the formula, the space against published counts."""

from __future__ import annotations

import itertools

import pytest
import torch
from scipy.optimize import brentq

from replica import models
from replica.config.asset_schema import ModelEntry
from replica.errors import ConfigError
from replica.methods import Context, parse
from replica.methods.search.gates import choose, probabilities, shift, soft_gates
from replica.methods.search.s3pet import STRUCTURE

T5 = {
    "vocab_size": 64, "d_model": 32, "d_kv": 4, "num_heads": 4, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 1,
    "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
LARGE = {**T5, "vocab_size": 32100, "d_model": 1024, "d_kv": 64, "num_heads": 16, "d_ff": 4096, "num_layers": 24}


def _model(config=T5, device="cpu"):
    return models.build(ModelEntry(title="t5", architecture="t5", config=config), head="text2text", device=device)


def _method(**config):
    entry, parsed = parse({"name": "s3pet", **config})
    return entry.load()(parsed)


@pytest.mark.parametrize("budget", [3.0, 40.0, 95.0])
def test_shift_keeps_the_expected_size(budget):
    generator = torch.Generator().manual_seed(0)
    alpha = torch.randn(9, generator=generator, dtype=torch.float64) * 3
    sizes = torch.randint(1, 30, (9,), generator=generator)

    def excess(zeta):
        return float((sizes * torch.sigmoid((alpha - zeta) / 0.7)).sum()) - budget

    zeta = shift(alpha, sizes, budget, 0.7)
    assert float(zeta) == pytest.approx(brentq(excess, -200, 200), abs=1e-9)
    assert float((sizes * probabilities(alpha, sizes, budget, 0.7)).sum()) == pytest.approx(budget, rel=1e-9)
    with pytest.raises(ConfigError, match="must lie between 0 and all slots'"):
        shift(alpha, sizes, float(sizes.sum()))


def test_gradient_is_that_of_shares_of_a_constant_sum():
    alpha = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64, requires_grad=True)
    sizes, weights = torch.tensor([5, 7, 11]), torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    (probabilities(alpha, sizes, 9.0) * weights).sum().backward()
    zeta = shift(alpha, sizes, 9.0)
    total = float(torch.sigmoid(alpha.detach() - zeta).sum())
    for index in range(3):
        step = torch.zeros(3, dtype=torch.float64)
        step[index] = 1e-6
        shares = [torch.sigmoid(alpha.detach() + s * step - zeta) for s in (1, -1)]
        high, low = (float((share / share.sum() * total * weights).sum()) for share in shares)
        assert float(alpha.grad[index]) == pytest.approx((high - low) / 2e-6, rel=1e-5)


def test_gates_are_sampled_as_a_binary_concrete():
    chances = torch.tensor([0.1, 0.5, 0.9])
    assert torch.allclose(soft_gates(chances, torch.full((3,), 0.5)), chances)
    uniform = torch.rand(20_000, generator=torch.Generator().manual_seed(0)).clamp(1e-6, 1 - 1e-6)
    assert float((soft_gates(torch.full((20_000,), 0.2), uniform) > 0.5).float().mean()) == pytest.approx(0.2, abs=0.01)


def test_structure_takes_what_fits_by_probability():
    chances, sizes = torch.tensor([0.2, 0.9, 0.5, 0.4, 0.1]), torch.tensor([3, 6, 5, 4, 1])
    left, wanted = 11, set()
    for index in (1, 2, 3, 0, 4):
        if sizes[index] <= left:
            wanted.add(index)
            left -= int(sizes[index])
    assert set(choose(chances, sizes, 11).nonzero().flatten().tolist()) == wanted == {1, 2}


def test_space_on_t5_large_is_the_released_one():
    """288 LoRA, 410 biases, 122 scales and 96 adapters of 1,881,088 parameters; LoRA alone 884,736."""
    model, method = _model({**LARGE, "num_decoder_layers": 24}, "meta"), _method(budget=1.389e-4)
    method.prepare(model, Context())
    cost = method.cost(model)
    counts = {kind: entry["slots"] for kind, entry in cost["by_kind"].items()}
    assert counts == {"lora": 288, "bias": 410, "scale": 122, "adapter": 96}
    assert cost["parameters"] == 1_881_088 and cost["by_kind"]["lora"]["parameters"] == 884_736
    assert round(cost["budget"]) == 102_458 and cost["expected"] == pytest.approx(cost["budget"])
    assert 102_458 - 1024 < cost["chosen"] <= 102_458


def test_forward_is_the_gated_sum_and_keeps_the_budget_while_it_learns():
    model, method = _model(), _method(budget=0.02)
    ids, labels = torch.randint(2, 64, (2, 5)), torch.randint(2, 64, (2, 3))
    plain = model(input_ids=ids, labels=labels).loss
    context = Context(learning_rate=1e-2)
    method.prepare(model, context)
    structure = getattr(model, STRUCTURE)
    # LoRA, biases and scales start at zero: with adapters shut too, nothing changes.
    structure.searching = False
    torch.testing.assert_close(model(input_ids=ids, labels=labels).loss, plain)
    structure.searching = True
    optimizer = method.optimizer(model, context)
    model.train()
    sizes, moved = torch.tensor(structure.sizes), []
    for step in range(3):
        context.step = step
        method.on_step_begin(model, context)
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        assert float((sizes * structure.probabilities().detach()).sum()) == pytest.approx(structure.budget, rel=1e-4)
        moved.append(structure.alpha.detach().clone())
    assert not torch.equal(moved[-1], torch.zeros_like(moved[-1]))
    model = method.finalize(model).eval()
    chosen = structure.chosen.bool()
    assert 0 < int(sizes[chosen].sum()) <= structure.budget
    # One chosen LoRA alone, by hand.
    slots = list(method.slots(model))
    query = model.encoder.block[0].layer[0].SelfAttention.q
    lora = next(slot for slot in slots if slot is query.s3[0])
    with torch.no_grad():
        structure.chosen.zero_()
        structure.chosen[lora.index] = 0.5
        x = torch.randn(3, 32)
        structure.refresh()
        wanted = x @ query.weight.t() + 0.5 * (x @ lora.first) @ lora.last
        torch.testing.assert_close(query(x), wanted)
    assert [slot.index for slot in slots] == list(itertools.islice(itertools.count(), len(slots)))


def test_other_architectures_are_refused():
    bert = ModelEntry(title="b", architecture="bert", config={"hidden_size": 8, "num_attention_heads": 2})
    with pytest.raises(ConfigError, match="architecture 'bert' is not known; known: t5"):
        _method().prepare(models.build(bert, head="classification", device="meta"), Context())
