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
from replica.methods.search.s3pet.bilevel import after_adamw, second_order
from replica.methods.search.s3pet.gates import choose, probabilities, shift, soft_gates
from replica.methods.search.s3pet.slots import STRUCTURE
from replica.methods.stored import load_model, save_model
from tests.methods.peft_models import context as peft_context
from tests.methods.peft_models import tiny

T5 = {
    "vocab_size": 64, "d_model": 32, "d_kv": 4, "num_heads": 4, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 1,
    "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1, "dropout_rate": 0.0,
}  # fmt: skip
LARGE = {**T5, "vocab_size": 32100, "d_model": 1024, "d_kv": 64, "num_heads": 16, "d_ff": 4096, "num_layers": 24}


def _model(config=T5, device="cpu"):
    return models.build(ModelEntry(title="t5", architecture="t5", config=config), head="text2text", device=device)


def _method(**config):
    entry, parsed = parse({"name": "s3pet", **config})
    return entry.create(parsed)


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


def _data(rows: int = 8):
    generator = torch.Generator().manual_seed(4)
    ids, labels = (
        torch.randint(2, 64, (rows, 5), generator=generator),
        torch.randint(2, 64, (rows, 3), generator=generator),
    )
    return {"input_ids": ids, "labels": labels}


def _searching(order: str = "second", **config):
    model, method, data = _model(), _method(budget=0.02, order=order, **config), _data()
    context = Context(
        learning_rate=1e-2,
        total_steps=4,
        rows=8,
        batch_size=4,
        rows_at=lambda places: {k: v[places] for k, v in data.items()},
    )
    method.prepare(model, context)
    model.train()
    context.optimizer = method.optimizer(model, context)
    train = context.rows_at(method.training_rows(8, context.seed))
    return model, method, context, train


def _steps(model, method, context, train, count: int):
    sizes, structure = torch.tensor(getattr(model, STRUCTURE).sizes), getattr(model, STRUCTURE)
    for _ in range(count):
        method.on_step_begin(model, context)
        method.loss(model, train, context).backward()
        assert structure.alpha.grad is None, "what trains the weights leaves alpha alone"
        context.optimizer.step()
        context.optimizer.zero_grad()
        context.step += 1
        assert float((sizes * structure.probabilities().detach()).sum()) == pytest.approx(structure.budget, rel=1e-4)


def test_searches_within_the_budget_and_keeps_what_fits():
    model, method = _model(), _method(budget=0.02)
    inputs = _data(2)
    plain = model(**inputs).loss
    method.prepare(model, Context())
    structure = getattr(model, STRUCTURE)
    # LoRA, biases and scales start at zero: with adapters shut too, nothing changes.
    structure.searching = False
    torch.testing.assert_close(model(**inputs).loss, plain)
    model, method, context, train = _searching()
    structure = getattr(model, STRUCTURE)
    _steps(model, method, context, train, 3)
    assert structure.alpha.detach().any() and int(context.optimizer.state[structure.alpha]["step"]) == 3
    found = method.reported(model, context)
    kept = {name.removeprefix("kept."): value for name, value in found.items() if name.startswith("kept.")}
    assert len(kept) == len(structure.sizes) and {
        "0.0-SelfAttention-q-lora",
        "other.encoder-final_layer_norm-scale",
    } <= set(kept)
    assert sum(size * value for size, value in zip(structure.sizes, kept.values(), strict=True)) == found["chosen"]
    assert found["expected"] == pytest.approx(found["budget"], rel=1e-4) and found["chosen"] <= found["budget"]
    model = method.finalize(model).eval()
    sizes, chosen = torch.tensor(structure.sizes), structure.chosen.bool()
    assert 0 < int(sizes[chosen].sum()) == found["chosen"]
    assert (
        int(chosen.sum())
        == found["chosen_slots"]
        == sum(found.get(f"chosen_{k}", 0) for k in ("lora", "bias", "scale", "adapter"))
    )
    # One chosen LoRA alone, by hand.
    slots = list(method.slots(model))
    query = model.encoder.block[0].layer[0].SelfAttention.q
    lora = next(slot for slot in slots if slot is query.s3[0])
    with torch.no_grad():
        structure.chosen.zero_()
        structure.chosen[lora.index] = 0.5
        x = torch.randn(3, 32)
        structure.refresh()
        wanted = x @ query.weight.t() + 0.5 * 16 * (x @ lora.first) @ lora.last
        torch.testing.assert_close(query(x), wanted)
    assert [slot.index for slot in slots] == list(itertools.islice(itertools.count(), len(slots)))


def test_the_halves_of_the_training_set_do_not_meet():
    method = _method()
    for rows in (7, 8):
        weights, held = method._halves(rows, 5)
        assert sorted(weights + held) == list(range(rows)) and len(weights) - len(held) in (0, 1)
        assert method.training_rows(rows, 5) == weights
    assert _method(phase="retrain").training_rows(8, 5) is None


def test_second_order_gradient_is_that_of_the_loss_after_a_step():
    """A loss that is a polynomial: d L_held(w - rate dL_train/dw, alpha) / d alpha by autograd through the step."""
    generator = torch.Generator().manual_seed(0)
    alpha = torch.nn.Parameter(torch.randn(4, generator=generator, dtype=torch.float64))
    weight = torch.nn.Parameter(torch.randn(4, generator=generator, dtype=torch.float64))
    a, b = (torch.randn(4, 4, generator=generator, dtype=torch.float64) for _ in range(2))

    def train(w):
        return ((a @ (w * alpha.sigmoid()) - 1) ** 2).sum()

    def held(w):
        return ((b @ (w * alpha.sigmoid()) + 0.5) ** 2).sum()

    rate, before = 0.01, weight.detach().clone()
    (slope,) = torch.autograd.grad(train(weight), weight, create_graph=True)
    (exact,) = torch.autograd.grad(held(weight - rate * slope), alpha)
    (direct,) = torch.autograd.grad(held(weight), alpha)
    found = second_order(
        alpha, [weight], lambda: train(weight), lambda: held(weight), lambda step: [before - rate * step[0]], rate
    )
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(direct, exact, rtol=1e-2)
    assert torch.equal(weight, before)


def test_the_virtual_step_is_adamws():
    weights = [torch.nn.Parameter(torch.randn(3, 2)), torch.nn.Parameter(torch.randn(4))]
    optimizer = torch.optim.AdamW(weights, lr=0.02, weight_decay=0.1)
    for _ in range(3):
        gradients = [torch.randn_like(w) for w in weights]
        foreseen = after_adamw(weights, gradients, optimizer)
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient.clone()
        optimizer.step()
        for weight, value in zip(weights, foreseen, strict=True):
            torch.testing.assert_close(weight.detach(), value, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("order", ["first", "second"])
def test_alpha_moves_by_the_gradient_on_the_other_half(order, monkeypatch):
    model, method, context, train = _searching(order)
    _steps(model, method, context, train, 2)
    structure, weights = getattr(model, STRUCTURE), method._weights(model)
    seen = {}
    monkeypatch.setattr(
        structure, "step", lambda gradient, rate, clip, state: seen.update(gradient=gradient.clone(), rate=rate)
    )
    method.on_step_begin(model, context)
    before = [w.detach().clone() for w in weights]
    method.loss(model, train, context)
    assert all(torch.equal(w, v) for w, v in zip(weights, before, strict=True))
    assert seen["rate"] == pytest.approx(0.1)
    # by hand: the rows that were held out, in any order, as `_move` draws all four of them
    _, half = method._halves(8, context.seed)
    held = context.rows_at(half)
    if order == "second":
        slopes = torch.autograd.grad(model(**train).loss, weights, allow_unused=True, materialize_grads=True)
        moved = after_adamw(weights, list(slopes), context.optimizer)
        with torch.no_grad():
            for w, v in zip(weights, moved, strict=True):
                w.copy_(v)
    (direct,) = torch.autograd.grad(model(**held).loss, structure.alpha)
    if order == "first":
        torch.testing.assert_close(seen["gradient"], direct, rtol=1e-3, atol=1e-6)
    else:
        apart = (seen["gradient"] - direct).norm() / direct.norm()
        assert 0 < float(apart) < 0.5, "the second-order term is a correction of the gradient after the step"


def test_alphas_losses_are_in_float32_whatever_the_training_is():
    """A trainer's wrapper of `forward` that computes in bfloat16, as accelerate puts it on the instance, sees the weights' loss alone."""
    model, method, context, train = _searching()
    plain, calls = model.forward, []

    def wrapped(*args, **kwargs):
        calls.append(1)
        with torch.autocast("cpu", torch.bfloat16):
            return plain(*args, **kwargs)

    model.forward = wrapped
    method.on_step_begin(model, context)
    with torch.autocast("cpu", torch.bfloat16):
        method.loss(model, train, context)
    assert len(calls) == 1 and vars(model)["forward"] is wrapped
    other, same, context, train = _searching()
    same.on_step_begin(other, context)
    same.loss(other, train, context)
    assert torch.equal(getattr(model, STRUCTURE).alpha, getattr(other, STRUCTURE).alpha)


def test_alpha_has_an_adamw_of_its_own():
    model, _, _, _ = _searching()
    structure, other = getattr(model, STRUCTURE), torch.nn.Parameter(torch.zeros(len(getattr(model, STRUCTURE).sizes)))
    optimizer, state = torch.optim.AdamW([other], lr=0.1, weight_decay=0.0), {}
    for step in range(4):
        gradient = torch.randn(len(other), generator=torch.Generator().manual_seed(step))
        structure.step(gradient, 0.1, 2.0, state)
        other.grad = gradient.clone()
        torch.nn.utils.clip_grad_norm_([other], 2.0)
        optimizer.step()
        torch.testing.assert_close(structure.alpha.detach(), other.detach(), rtol=1e-4, atol=1e-6)


def test_retrains_the_chosen_slots_alone_from_a_fresh_start(tmp_path):
    model, method, context, train = _searching()
    _steps(model, method, context, train, 3)
    model = method.finalize(model)
    stored = [{"name": "s3pet", "budget": 0.02}]
    save_model(model, tmp_path, head="text2text", labels=0, structure=stored)
    again = _method(budget=0.02, phase="retrain")
    loaded, structure = load_model(tmp_path, head="text2text", methods={"s3pet": again})
    again.prepare(loaded, Context(seed=7, restored=frozenset(item["name"] for item in structure)))
    kept = getattr(loaded, STRUCTURE)
    assert torch.equal(kept.chosen, getattr(model, STRUCTURE).chosen) and not kept.searching
    fresh = _model()
    before = dict(fresh.named_parameters())
    for name, parameter in loaded.named_parameters():
        if name in before:
            assert torch.equal(parameter, before[name]), "the backbone is untouched"
    for slot in again.slots(loaded):
        wanted = bool(kept.chosen[slot.index])
        assert all(p.requires_grad == wanted for p in slot.parameters())
        if slot.kind != "adapter":
            assert not slot.last.any(), "what was learned while searching is gone"
    trainable = sum(p.numel() for p in loaded.parameters() if p.requires_grad)
    assert trainable == int((torch.tensor(kept.sizes) * kept.chosen).sum()) <= kept.budget
    fresh_loss = _model().eval()(**train).loss
    slots_alone = [p for p in loaded.parameters() if p.requires_grad]
    assert again._weights(loaded) == slots_alone
    adapters = any(kept.chosen[s.index] and s.kind == "adapter" for s in again.slots(loaded))
    if not adapters:
        torch.testing.assert_close(loaded.eval()(**train).loss, fresh_loss)


def test_a_random_structure_fits_the_budget_and_differs_by_seed():
    chosen = []
    for seed in (0, 1):
        model, method = _model(), _method(budget=0.02, phase="retrain", structure="random")
        method.prepare(model, Context(seed=seed))
        structure = getattr(model, STRUCTURE)
        sizes = torch.tensor(structure.sizes)
        assert structure.budget - int(sizes.min()) < int((sizes * structure.chosen).sum()) <= structure.budget
        chosen.append(structure.chosen.clone())
    assert not torch.equal(*chosen)
    with pytest.raises(ConfigError, match="starts `from:` a run that searched"):
        _method(phase="retrain").prepare(_model(), Context())


def test_bert_has_slots_at_its_matrices_norms_and_sublayers():
    model, method = tiny("bert"), _method(budget=0.05)
    plain = tiny("bert")
    context = peft_context("bert", learning_rate=1e-2, total_steps=4)
    method.prepare(model, context)
    kinds = {kind: entry["slots"] for kind, entry in method.cost(model)["by_kind"].items()}
    assert kinds == {"lora": 12, "bias": 12 + 5, "scale": 5, "adapter": 4}
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == method.expected(model)["trainable_parameters"]
    getattr(model, STRUCTURE).searching = False
    rows = context.rows_at(range(8))
    torch.testing.assert_close(model(**rows).loss, plain(**rows).loss)
    norm = model.bert.encoder.layer[0].output.LayerNorm
    scale = next(s for s in norm.s3 if s.kind == "scale")
    with torch.no_grad():
        scale.last.fill_(0.5)
        x = torch.randn(3, 32)
        torch.testing.assert_close(
            scale(x), 0.5 * torch.nn.functional.layer_norm(x, (32,), eps=1e-6), rtol=1e-4, atol=1e-5
        )


def test_other_architectures_are_refused():
    vit = ModelEntry(title="v", architecture="vit", config={"num_hidden_layers": 1})
    with pytest.raises(ConfigError, match="architecture 'vit' is not supported; supported: bert"):
        _method().prepare(models.build(vit, head="image", device="meta"), Context(head="image"))


def test_pairs_start_and_are_scaled_as_released():
    model, method = _model(LARGE | {"num_layers": 1, "vocab_size": 64}), _method(budget=0.02)
    method.prepare(model, Context())
    slot = model.encoder.block[0].layer[0].SelfAttention.q.s3[0]
    assert slot.scale == 16 and not slot.last.any()
    assert slot.first.abs().max() <= 1 / 32  # uniform within 1 / sqrt(1024): standard deviation 1 / sqrt(3 x 1024)
    assert float(slot.first.detach().std()) == pytest.approx(
        (3 * 1024) ** -0.5, rel=0.05
    )  # 1,024 numbers: three standard errors
    with torch.no_grad():
        slot.last.normal_()
    x = torch.randn(3, 1024)
    torch.testing.assert_close(slot(x), 16 * x @ (slot.first @ slot.last), rtol=1e-4, atol=1e-4)
    assert _method(lora_alpha=1.0).config.lora_alpha == 1.0


@pytest.mark.parametrize("training", [True, False])
def test_slots_are_in_the_mode_of_the_model(training):
    model = tiny("t5").train(training)
    _method(budget=0.02).prepare(model, Context())
    assert {module.training for module in model.modules()} == {training}


def test_an_encoder_that_runs_alone_has_the_gates_of_its_search():
    model, method = _model(), _method(budget=0.02)
    method.prepare(model, Context())
    with torch.no_grad():
        for slot in method.slots(model):
            for parameter in slot.parameters():
                parameter.fill_(0.1)
    model.eval()
    ids = _data(2)["input_ids"]
    with torch.no_grad():
        alone = model.get_encoder()(input_ids=ids).last_hidden_state  # before any pass of the model
        inside = model(input_ids=ids, decoder_input_ids=ids[:, :1]).encoder_last_hidden_state
        plain = _model().get_encoder()(input_ids=ids).last_hidden_state
    assert torch.equal(alone, inside) and not torch.allclose(alone, plain, atol=1e-3)
