"""Magnitude masks, gradual pruning, rewinding and locked patterns, held to arithmetic done by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForMaskedLM, BertForPreTraining, BertForSequenceClassification, set_seed

from replica.errors import ConfigError
from replica.methods import Context, parse
from replica.methods.pruning.gradual_magnitude_pruning.method import pruning_steps
from replica.methods.pruning.masks import MaskedLinear, magnitude_mask, maskable_linears, pruned_count


def tiny(kind=BertForSequenceClassification, seed=0, **changes):
    set_seed(seed)
    config = BertConfig(
        **{
            "vocab_size": 50,
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "max_position_embeddings": 32,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            **changes,
        }
    )
    return kind(config)


def make(name, **fields):
    entry, config = parse({"name": name, **fields})
    return entry.create(config)


def batch(seed=0, rows=8):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 50, (rows, 10), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": (ids[:, 0] < 25).long()}


def train(model, methods, steps, optimizer, start=0, context=None):
    """Run steps of the loop's order of hooks; returns the losses."""
    context = context or Context(total_steps=steps)
    data, losses = batch(), []
    model.train()
    for step in range(start, steps):
        context.step = step
        for method in methods:
            method.on_step_begin(model, context)
        loss = model(**data).loss
        loss.backward()
        for method in methods:
            method.on_gradients(model, context)
        optimizer.step()
        optimizer.zero_grad()
        context.step = step + 1
        for method in methods:
            method.on_step_end(model, context)
        losses.append(float(loss.detach()))
    return losses


# --- masks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sparsity", "kept"), [(0.0, 10), (0.1, 9), (0.5, 5), (0.84, 2), (0.86, 1), (0.99, 0)]
)  # round(8.4) = 8, round(8.6) = 9, round(9.9) = 10
def test_mask_keeps_the_largest_magnitudes_in_exact_number(sparsity, kept):
    weight = torch.tensor([[-5.0, 1, -2, 3, 4], [6, -7, 8, 9, -10]])
    mask = magnitude_mask(weight, sparsity)
    by_hand = sorted(weight.abs().flatten().tolist(), reverse=True)[:kept]
    assert sorted(weight[mask].abs().tolist(), reverse=True) == by_hand


def test_equal_magnitudes_are_still_counted_exactly_and_the_first_are_kept():
    weight = torch.tensor([[2.0, -2, 2, 2], [0, 0, 5, 2]])
    mask = magnitude_mask(weight, 0.5)
    assert mask.tolist() == [[True, True, True, False], [False, False, True, False]]
    assert int(magnitude_mask(torch.zeros(4, 5), 0.3).sum()) == 14


def test_half_counts_round_to_even():
    assert pruned_count(5, 0.5) == 2  # 2.5
    assert pruned_count(7, 0.5) == 4  # 3.5
    assert pruned_count(589824, 0.9) == 530842  # 530841.6


def test_blocks_of_four_inputs_go_together_by_their_mean_magnitude():
    weight = torch.tensor([[1.0, 1, 1, 1, 0, 0, 0, 5], [-3, -3, 3, 3, 0, 0, 0, 3.9]])
    # means: 1, 1.25 / 3, 0.975: half of the four blocks goes
    mask = magnitude_mask(weight, 0.5, (1, 4))
    assert mask.tolist() == [[False] * 4 + [True] * 4, [True] * 4 + [False] * 4]


def test_a_block_that_does_not_divide_the_layer_is_an_error():
    with pytest.raises(ConfigError, match="3x4"):
        magnitude_mask(torch.ones(4, 4), 0.5, (3, 4))


def test_heads_and_tied_weights_are_not_masked_and_the_pooler_is():
    names = set(maskable_linears(tiny(BertForPreTraining), ("cls",)))
    assert "bert.pooler.dense" in names
    assert not any(name.startswith("cls") for name in names)
    assert len(names) == 2 * 6 + 1
    assert "cls.predictions.decoder" not in maskable_linears(tiny(BertForMaskedLM), ())


# --- gradual pruning -------------------------------------------------------------------------------------------------


def test_published_schedule_at_hand_computed_points():
    _, config = parse({"name": "gradual-magnitude-pruning", "sparsity": 0.9})
    steps = pruning_steps(config, 100_000)
    assert (steps.start, steps.end, steps.last_update, steps.interval) == (0, 50_000, 80_000, 1_000)
    assert steps.sparsity(0, 0.9) == 0
    assert steps.sparsity(25_000, 0.9) == pytest.approx(0.9 * (1 - 0.5**3))  # 0.7875
    assert steps.sparsity(10_000, 0.9) == pytest.approx(0.9 * (1 - 0.512))  # 0.4392
    assert steps.sparsity(50_000, 0.9) == steps.sparsity(99_999, 0.9) == 0.9
    updates = [step for step in range(100_000) if steps.updates_at(step)]
    assert updates == list(range(0, 80_001, 1000))


@pytest.mark.parametrize("total", [1, 2, 3, 6, 7, 50, 333])
@pytest.mark.parametrize("interval", [0.01, 0.3, 1.0])
def test_every_run_however_short_ends_at_its_target(total, interval):
    _, config = parse({"name": "gradual-magnitude-pruning", "interval": interval, "start": 0.1})
    steps = pruning_steps(config, total)
    last = max(step for step in range(total) if steps.updates_at(step))
    assert steps.sparsity(last, 0.85) == 0.85


def test_a_last_update_before_the_end_is_an_error():
    with pytest.raises(ConfigError, match="never reached"):
        parse({"name": "gradual-magnitude-pruning", "end": 0.9, "last_update": 0.5})


def test_every_layer_reaches_the_target_by_itself_and_zeros_are_baked_in():
    model = tiny()
    method = make("gradual-magnitude-pruning", sparsity=0.85)
    method.prepare(model, Context(total_steps=20))
    losses = train(model, [method], 20, torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.01))
    assert losses[-1] < losses[0]
    model = method.finalize(model)
    total = sum(p.numel() for p in model.parameters())
    zeros = 0
    for name, layer in model.named_modules():
        if type(layer) is nn.Linear:
            missing = int((layer.weight == 0).sum())
            assert missing == (0 if name == "classifier" else round(0.85 * layer.weight.numel()))
            zeros += missing
    assert not any(isinstance(module, MaskedLinear) for module in model.modules())
    assert not [name for name in model.state_dict() if "mask" in name]
    assert method.expected(model) == {"total_parameters": total, "nonzero_parameters": total - zeros}


def test_pruned_weights_have_no_gradient_and_keep_their_values():
    model = tiny()
    method = make("gradual-magnitude-pruning", sparsity=0.5, end=0.0, last_update=0.0)
    context = Context(total_steps=10)
    method.prepare(model, context)
    method.on_step_begin(model, context)
    layer = model.bert.encoder.layer[0].output.dense
    before = layer.weight.detach().clone()
    pruned = ~layer.weight_mask
    assert int(pruned.sum()) == layer.weight.numel() // 2
    model(**batch()).loss.backward()
    assert not layer.weight.grad[pruned].any()
    assert layer.weight.grad[~pruned].any()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert torch.equal(layer.weight[pruned], before[pruned])
    assert not torch.equal(layer.weight, before)


def test_a_pruned_weight_comes_back_when_kept_ones_shrink_below_it():
    model = tiny()
    method = make("gradual-magnitude-pruning", sparsity=0.5, end=0.0, last_update=1.0, interval=0.1)
    context = Context(total_steps=10)
    method.prepare(model, context)
    layer = model.bert.encoder.layer[0].attention.self.query
    with torch.no_grad():
        layer.weight.copy_(torch.linspace(1, 2, 256).view(16, 16))
    method.on_step_begin(model, context)
    assert not layer.weight_mask[0, 0]
    assert layer.weight_mask[15, 15]
    with torch.no_grad():
        layer.weight[15, 15] = 0.5
    context.step = 1
    method.on_step_begin(model, context)
    assert not layer.weight_mask[15, 15]
    assert layer.weight_mask[7, 15]  # the largest of the lower half takes its place
    assert int(layer.weight_mask.sum()) == 128


def test_masks_travel_with_a_checkpoint_so_that_resuming_is_bit_equal():
    def fresh():
        model = tiny()
        method = make("gradual-magnitude-pruning", sparsity=0.8, interval=0.3)
        method.prepare(model, Context(total_steps=12))
        return model, method, torch.optim.AdamW(model.parameters(), lr=1e-3)

    model, method, optimizer = fresh()
    train(model, [method], 12, optimizer)
    through = model.state_dict()
    first, method, optimizer = fresh()
    train(first, [method], 5, optimizer, context=Context(total_steps=12))
    second, other, resumed = fresh()
    second.load_state_dict(first.state_dict())
    resumed.load_state_dict(optimizer.state_dict())
    train(second, [other], 12, resumed, start=5)
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in through.items())


def test_gradual_pruning_prepares_on_meta_and_counts_bert_base():
    with torch.device("meta"):
        model = BertForMaskedLM(BertConfig())
    method = make("gradual-magnitude-pruning", sparsity=0.9)
    method.prepare(model, Context())
    small, large = round(0.9 * 768 * 768), round(0.9 * 768 * 3072)
    expected = method.expected(model)
    assert expected["total_parameters"] - expected["nonzero_parameters"] == 12 * (4 * small + 2 * large)


# --- rewinding -------------------------------------------------------------------------------------------------------


def test_rewound_rate_is_the_cards_saw_tooth():
    method = make("lr-rewinding", start=0.0, end=0.5, interval=0.01)
    context = Context(total_steps=100_000, warmup_steps=1_000)  # N' = 50,000
    factor = lambda step: method.learning_rate_factor(step, context)  # noqa: E731
    assert factor(0) == 0
    assert factor(500) == 0.5
    assert factor(1_000) == pytest.approx(50_000 / 49_000)
    assert factor(1_999) == pytest.approx((50_000 - 999) / 49_000)
    assert factor(2_000) == factor(49_000) == pytest.approx(50_000 / 49_000)
    assert factor(49_999) == pytest.approx(49_001 / 49_000)
    assert factor(50_000) == pytest.approx(50_000 / 49_000)
    assert factor(75_000) == pytest.approx(25_000 / 49_000)
    assert factor(100_000) == 0


def test_rewinding_in_a_window_that_starts_later():
    method = make("lr-rewinding", start=0.2, end=0.6, interval=0.1)
    context = Context(total_steps=10)  # window 2..6, N' = 6, interval 1: held at (6 - 2) / 6 inside the window
    values = [method.learning_rate_factor(step, context) * 6 for step in range(11)]
    assert values == pytest.approx([6, 5, 4, 4, 4, 4, 4, 3, 2, 1, 0])


# --- pattern lock ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda parameters: torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.1),
        lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.1),
    ],
    ids=["adamw", "momentum"],
)
def test_locked_zeros_stay_exactly_zero_and_the_rest_trains(optimizer):
    model = tiny()
    for layer in maskable_linears(model, ("classifier",)).values():
        layer.weight.data[magnitude_mask(layer.weight, 0.9).logical_not()] = 0
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    method = make("pattern-lock")
    method.prepare(model, Context(total_steps=15))
    used = optimizer(model.parameters())
    losses = train(model, [method], 15, used)
    assert losses[-1] < losses[0]
    model = method.finalize(model)
    after = model.state_dict()
    assert set(after) == set(before)
    for name, layer in maskable_linears(model, ("classifier",)).items():
        assert type(layer) is nn.Linear
        assert torch.equal(layer.weight == 0, before[f"{name}.weight"] == 0)
        assert not torch.equal(layer.weight, before[f"{name}.weight"])
    assert (model.bert.pooler.dense.weight == 0).sum() == round(0.9 * 16 * 16)  # pruned by the parent, so locked


def test_a_dense_pooler_is_trained_in_full_under_a_lock():
    model = tiny()
    for layer in maskable_linears(model, ("classifier", "pooler")).values():
        layer.weight.data[magnitude_mask(layer.weight, 0.9).logical_not()] = 0
    method = make("pattern-lock")
    method.prepare(model, Context(total_steps=3))
    train(model, [method], 3, torch.optim.AdamW(model.parameters(), lr=1e-2))
    assert method.finalize(model).bert.pooler.dense.weight.all()


def test_a_lock_undoes_an_optimizer_that_moves_zeros():
    model = tiny()
    layer = model.bert.encoder.layer[0].intermediate.dense
    layer.weight.data[0] = 0
    method = make("pattern-lock")
    context = Context(total_steps=1)
    method.prepare(model, context)
    layer.weight.data += 1  # noise, as of private training
    method.on_step_end(model, context)
    assert not layer.weight[0].any()
    assert layer.weight[1:].all()


def test_pruning_and_lock_in_one_run_is_an_error():
    model = tiny()
    make("gradual-magnitude-pruning").prepare(model, Context())
    with pytest.raises(ConfigError, match="has a mask already"):
        make("pattern-lock").prepare(model, Context())
