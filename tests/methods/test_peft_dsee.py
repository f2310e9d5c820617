"""DSEE: the update against a dense matrix, its support, masks against torch's pruning, and heads cut out against heads gated."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch.nn.utils import prune

from replica.errors import ConfigError
from replica.methods import Context, parse
from replica.methods.peft.dsee.sparse_update import SparseLowRankUpdate, sparse_support
from replica.methods.pruning.masks import MASK, global_masks
from replica.methods.stored import load_model, save_model
from replica.models import encoder_layers

from .peft_models import batch, tiny


def prepared(steps: int = 10, **fields):
    entry, config = parse({"name": "dsee", "rank": 2, "entries": 5, "support": "random", **fields})
    method, model = entry.create(config), tiny("bert")
    method.prepare(model, Context(seed=1, total_steps=steps))
    return model, method


def attentions(model):
    return [layer.attention for layer in encoder_layers(model)]


def randomise_updates(model) -> None:
    seeds = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for attention in attentions(model):
            for linear in (attention.self.query, attention.self.value):
                for parameter in linear.update.parameters():
                    parameter.copy_(torch.randn(parameter.shape, generator=seeds) * 0.2)


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(**batch("bert")).logits


def test_update_is_scale_times_low_rank_plus_entries_at_their_positions():
    torch.manual_seed(0)
    update = SparseLowRankUpdate(6, 4, 2, 3, 2.0)
    update.positions.copy_(torch.tensor([1, 9, 23]))
    for parameter in update.parameters():
        torch.nn.init.normal_(parameter)
    sparse = torch.zeros(4, 6)
    sparse[0, 1], sparse[1, 3], sparse[3, 5] = update.values.detach()
    wanted = 2.0 * (update.b @ update.a + sparse)
    torch.testing.assert_close(update.matrix(), wanted)
    x = torch.randn(2, 5, 6)
    torch.testing.assert_close(update(x), x @ wanted.t())


@pytest.mark.parametrize("rounds", [1, 2, 3, 50])
def test_support_is_what_the_greedy_decomposition_leaves_over_in_numpy(rounds):
    weight = torch.randn(12, 20, generator=torch.Generator().manual_seed(0)) * 0.05
    w = weight.double().numpy()
    v = torch.randn(1, 20, generator=torch.Generator().manual_seed(1)).double().numpy()
    for number in range(rounds):
        s = np.zeros_like(w)
        for _ in range(2):
            u = np.linalg.qr((w - s) @ v.T)[0]
            v = u.T @ (w - s)
            s = np.where(np.abs(w - u @ v) < 0.01, 0, w - u @ v)
        residual = w - u @ v
        if number == 2:  # ranks 1, 6 and 11; 16 would leave nothing of 12 rows
            break
        v = np.concatenate([v, np.linalg.qr(residual - s)[1][:5]])
    wanted = np.sort(np.argsort(np.abs(residual), axis=None)[-4:])
    assert sparse_support(weight, 4, rounds, torch.Generator().manual_seed(1)).tolist() == wanted.tolist()


def test_update_starts_at_zero_and_every_part_of_it_moves():
    plain = tiny("bert")
    model, _ = prepared()
    torch.testing.assert_close(logits(model), logits(plain))
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert {name.rpartition("update.")[2] for name in trained} == {
        "a",
        "b",
        "values",
        "classifier.weight",
        "classifier.bias",
    }
    before = {name: p.detach().clone() for name, p in trained.items()}
    optimizer = torch.optim.SGD(trained.values(), lr=0.1)
    for _ in range(2):
        model(**batch("bert")).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert not [name for name, p in trained.items() if torch.equal(p, before[name])]


@pytest.mark.parametrize("sparsity", [0.0, 0.2, 0.37, 0.9])
def test_global_masks_are_torchs_global_unstructured_pruning(sparsity):
    torch.manual_seed(3)
    layers = [torch.nn.Linear(7, 5), torch.nn.Linear(5, 9), torch.nn.Linear(4, 4)]
    ours = global_masks([layer.weight for layer in layers], sparsity)
    prune.global_unstructured([(layer, "weight") for layer in layers], prune.L1Unstructured, amount=sparsity)
    for mask, layer in zip(ours, layers, strict=True):
        assert torch.equal(mask, layer.weight_mask.bool())


def test_equal_magnitudes_leave_exactly_the_wanted_number():
    masks = global_masks([torch.ones(3, 4), -torch.ones(2, 5)], 0.5)
    assert sum(int(mask.sum()) for mask in masks) == 11


def test_masks_come_from_the_update_for_queries_and_values_and_from_the_weights_elsewhere():
    model, method = prepared(sparsity=0.25, dense_sparsity=0.4)
    randomise_updates(model)
    method.draw(model)
    pairs = [linear for attention in attentions(model) for linear in (attention.self.query, attention.self.value)]
    scores = torch.cat([linear.update.matrix().abs().flatten() for linear in pairs])
    threshold = scores.sort().values[round(0.25 * scores.numel()) - 1]
    for linear in pairs:
        assert torch.equal(getattr(linear, MASK), linear.update.matrix().abs() > threshold)
    others = [
        m for name, m in model.named_modules() if name.endswith(("key", "dense")) and isinstance(m, torch.nn.Linear)
    ]
    assert len(others) == 2 * 4 + 1  # with the pooler's
    weights = torch.cat([m.weight.abs().flatten() for m in others])
    threshold = weights.sort().values[round(0.4 * weights.numel()) - 1]
    assert all(torch.equal(getattr(m, MASK), m.weight.abs() > threshold) for m in others)
    masked = logits(model)
    finished = method.finalize(model)
    torch.testing.assert_close(logits(finished), masked)
    zeros = sum(int((linear.weight == 0).sum()) for linear in pairs)
    assert zeros == round(0.25 * scores.numel())


def test_removed_heads_are_those_with_the_smallest_update_and_cutting_changes_nothing():
    model, method = prepared(heads=1, units=0.25)
    randomise_updates(model)
    full = logits(model)
    method.draw(model)
    for attention in attentions(model):
        magnitude = attention.self.query.update.matrix().abs() + attention.self.value.update.matrix().abs()
        weakest = int(torch.stack([magnitude[8 * h : 8 * h + 8].sum() for h in range(4)]).argmin())
        kept = attention.output.dense.kept_inputs
        assert not kept[8 * weakest : 8 * weakest + 8].any() and int(kept.sum()) == 24
    gated = logits(model)
    assert (gated - full).abs().max() > 1e-4
    finished = method.finalize(copy.deepcopy(model))
    torch.testing.assert_close(logits(finished), gated, rtol=1e-4, atol=1e-5)
    for layer in encoder_layers(finished):
        assert layer.attention.self.query.weight.shape == (24, 32) and layer.attention.output.dense.weight.shape == (
            32,
            24,
        )
        assert layer.intermediate.dense.weight.shape == (48, 32) and layer.output.dense.weight.shape == (32, 48)
        assert layer.attention.self.query.update.matrix().shape == (24, 32)


def test_a_gated_head_gets_no_gradient():
    model, method = prepared(heads=1)
    randomise_updates(model)
    method.draw(model)
    model(**batch("bert")).loss.backward()
    for attention in attentions(model):
        removed = ~attention.output.dense.kept_inputs
        assert (
            not attention.self.value.update.b.grad[removed].any() and attention.self.value.update.b.grad[~removed].any()
        )


def test_pruning_is_drawn_once_at_its_step():
    model, method = prepared(steps=9, sparsity=0.5)
    masks = []
    for step in range(9):
        method.on_step_begin(model, Context(total_steps=9, step=step))
        masks.append(float(attentions(model)[0].self.key.weight_mask.float().mean()))
    assert masks[:3] == [1.0] * 3 and masks[3] < 1 and len(set(masks[3:])) == 1


def test_a_checkpoint_brings_masks_support_and_removed_heads_back():
    model, method = prepared(sparsity=0.3, heads=1)
    randomise_updates(model)
    method.draw(model)
    other, _ = prepared(sparsity=0.3, heads=1)
    other.load_state_dict(model.state_dict())
    assert torch.equal(logits(other), logits(model))


def test_a_stored_model_trains_on_without_being_pruned_again(tmp_path):
    model, method = prepared(sparsity=0.3, heads=1)
    randomise_updates(model)
    method.draw(model)
    finished = method.finalize(model)
    fields = {"name": "dsee", **method.config.model_dump(exclude_defaults=True, mode="json")}
    save_model(finished, tmp_path, head="classification", labels=2, structure=[fields])
    loaded, _ = load_model(tmp_path)
    assert torch.equal(logits(loaded), logits(finished))
    again = parse(fields)[0].create(method.config)
    again.prepare(loaded, Context(total_steps=4, restored=frozenset({"dsee"})))
    before = attentions(loaded)[0].self.key.weight.detach().clone()
    for step in range(4):
        again.on_step_begin(loaded, Context(total_steps=4, step=step))
    assert torch.equal(attentions(loaded)[0].self.key.weight, before) and (before == 0).any()
    trained = sum(p.numel() for p in loaded.parameters() if p.requires_grad)
    assert trained == again.expected(loaded)["trainable_parameters"] == 2 * 2 * (2 * (32 + 24) + 5) + 2 * 32 + 2


def test_gpt2s_layers_are_masked_and_cut_as_berts_and_stored(tmp_path):
    """GPT-2 has the same weights in other layers: its masks follow the same rules, and a stored model says what it said."""
    entry, config = parse({"name": "dsee", "rank": 2, "entries": 5, "support": "random", "sparsity": 0.25, "heads": 1})
    method, model = entry.create(config), tiny("gpt2")

    def said(which) -> torch.Tensor:
        with torch.no_grad():
            return which(**batch("gpt2")).logits

    method.prepare(model, Context(seed=1, total_steps=10, head="completion"))
    torch.testing.assert_close(said(model), said(tiny("gpt2")))  # an update starts at zero, and nothing is masked yet
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == 2 * 2 * (2 * (32 + 32) + 5) == method.expected(model)["trainable_parameters"]
    blocks = encoder_layers(model)
    pairs = [getattr(block.attn.c_attn, name) for block in blocks for name in ("query", "value")]
    seeds = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for parameter in (p for linear in pairs for p in linear.update.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=seeds) * 0.2)
    method.draw(model)
    scores = torch.cat([linear.update.matrix().abs().flatten() for linear in pairs])
    threshold = scores.sort().values[round(0.25 * scores.numel()) - 1]
    assert all(torch.equal(getattr(q, MASK), q.update.matrix().abs() > threshold) for q in pairs)
    others = [
        m for block in blocks for m in (block.attn.c_attn.key, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj)
    ]
    weights = torch.cat([m.weight.abs().flatten() for m in others])
    threshold = weights.sort().values[round(0.25 * weights.numel()) - 1]
    assert all(torch.equal(getattr(m, MASK), m.weight.abs() > threshold) for m in others)
    for block in blocks:
        magnitude = sum(getattr(block.attn.c_attn, name).update.matrix().abs() for name in ("query", "value"))
        weakest = int(torch.stack([magnitude[8 * h : 8 * h + 8].sum() for h in range(4)]).argmin())
        assert not block.attn.c_proj.kept_inputs[8 * weakest : 8 * weakest + 8].any()
    gated = said(model)
    finished = method.finalize(model)
    torch.testing.assert_close(said(finished), gated, rtol=1e-4, atol=1e-5)
    assert all(block.attn.c_attn.query.weight.shape == (24, 32) for block in encoder_layers(finished))
    fields = {"name": "dsee", **config.model_dump(exclude_defaults=True, mode="json")}
    save_model(finished, tmp_path, head="completion", labels=2, structure=[fields])
    loaded, _ = load_model(tmp_path)
    assert torch.equal(said(loaded), said(finished))
    prompt = {"input_ids": batch("gpt2")["input_ids"][:2], "max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    whole = loaded.generate(**prompt)
    assert torch.equal(loaded.generate(**prompt, use_cache=False), whole) and whole.shape == (2, 16)


def test_cost_counts_a_model_with_three_quarters_of_its_heads():
    entry, config = parse({"name": "dsee", "rank": 2, "heads": 1, "sparsity": 0.25})
    method, model = entry.create(config), tiny("bert", "meta")
    method.prepare(model, Context(total_steps=2))
    cost = method.cost(model, length=16, drawn=True)
    assert cost["heads"] == 6 and cost["heads_removed_share"] == 0.25
    # layer: 16 tokens, queries, keys, values and output with 24 of 32 channels, 3 heads' two products, two layers of 64 units
    layer = 2 * 16 * (4 * 24 * 32 + 2 * 16 * 24 + 2 * 32 * 64)
    assert cost["flops_folded"] == 2 * layer + 2 * (32 * 32 + 32 * 2)  # pooler and classifier read one token
    assert cost["flops_with_update"] - cost["flops_folded"] == 2 * 2 * 2 * 16 * 2 * (32 + 24)
    assert cost["pools"]["update"]["zeros"] == round(0.25 * 4 * 32 * 32)


@pytest.mark.parametrize(("fields", "says"), [({"heads": 4}, "none of 4"), ({"entries": 2000}, "more than the 1024")])
def test_impossible_sizes_are_errors(fields, says):
    with pytest.raises(ConfigError, match=says):
        prepared(**fields)
