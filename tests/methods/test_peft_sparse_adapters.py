"""SparseAdapter: how many weights stay, which ones, and that the others neither work nor move."""

from __future__ import annotations

import math

import pytest
import torch

from replica import models
from replica.config.asset_schema import ModelEntry
from replica.errors import ConfigError
from replica.methods import Context, parse

from .peft_models import batch, context, prepared

ROBERTA = {"vocab_size": 50265, "hidden_size": 768, "num_hidden_layers": 12, "intermediate_size": 3072}


def _matrices(model):
    return {n: p for n, p in model.named_parameters() if ".adapter." in n and p.dim() == 2}


def _masks(model):
    return {n.removesuffix("_mask"): m for n, m in model.named_buffers() if n.endswith("weight_mask")}


def test_counts_on_roberta_base():
    entry = ModelEntry(title="r", architecture="roberta", config={**ROBERTA, "num_attention_heads": 12})
    model = models.build(entry, head="classification", device="meta")
    found, config = parse(
        {"name": "sparse-adapter", "bottleneck": 64, "sparsity": 0.8, "layer_norms": False, "head": False}
    )
    method = found.create(config)
    method.prepare(model, Context())
    weights = 24 * 2 * 768 * 64
    assert method.cost(model) == {"prunable": weights, "pruned": math.ceil(0.8 * weights), "kept": 471_859}
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == weights + 24 * (768 + 64)


def test_dropout_follows_the_models_mode_and_not_the_scores():
    options = {"reduction": 4, "norm": True, "dropout": 0.5, "sparsity": 0.5}
    model, _ = prepared({"name": "sparse-adapter", **options}, "bert")
    still, _ = prepared({"name": "sparse-adapter", **options, "dropout": 0.0}, "bert")
    assert all(torch.equal(mask, _masks(still)[name]) for name, mask in _masks(model).items())
    with torch.no_grad():
        quiet = still(**batch("bert")).logits
        assert torch.equal(model(**batch("bert")).logits, quiet)
        assert not torch.equal(model.train()(**batch("bert")).logits, quiet)


@pytest.mark.parametrize("score", ["magnitude", "random"])
@pytest.mark.parametrize("scope", ["global", "local"])
def test_masks_count_as_the_formula_says(score, scope):
    reference = {"name": "sparse-adapter", "reduction": 4, "score": score, "scope": scope, "sparsity": 0.3}
    model, method = prepared(reference, "bert")
    kept = sum(int(mask.sum()) for mask in _masks(model).values())
    assert kept == method.cost(model)["kept"] < method.cost(model)["prunable"]
    if score == "magnitude":
        for name, mask in _masks(model).items():
            weight = _matrices(model)[name].detach().abs()
            others = (
                weight
                if scope == "local"
                else torch.cat([p.detach().abs().flatten() for p in _matrices(model).values()])
            )
            bound = others.flatten().sort().values[math.floor(0.3 * others.numel())]
            assert torch.equal(mask, weight >= bound) or scope == "global"


def _dense_scores(reference, second: bool = False):
    """Gradients of the mean loss of all rows at the dense adapters' start, or w (H g) by differences of such gradients."""
    model, _ = prepared({**reference, "name": "adapter", "initial_std": 0.02, "layer_norms": False}, "bert")
    weights = _matrices(model)

    def slopes():
        model.zero_grad()
        model(**batch("bert")).loss.backward()
        return {n: p.grad.detach().clone() for n, p in weights.items()}

    first = slopes()
    if not second:
        return {n: (first[n] * p).abs().detach() for n, p in weights.items()}
    sides = []
    with torch.no_grad():
        for step in (1e-2, -2e-2):
            for name, p in weights.items():
                p.add_(step * first[name])
            with torch.enable_grad():
                sides.append(slopes())
        for name, p in weights.items():
            p.add_(1e-2 * first[name])
    return {n: (p * (sides[0][n] - sides[1][n]) / 2e-2).detach() for n, p in weights.items()}


@pytest.mark.parametrize("score", ["snip", "grasp"])
def test_masks_come_from_data_before_training(score):
    reference = {"reduction": 4}
    model, _ = prepared({**reference, "name": "sparse-adapter", "score": score, "sparsity": 0.6}, "bert")
    scores = _dense_scores(reference, second=score == "grasp")
    masks = _masks(model)
    assert set(masks) == set(scores)
    kept = torch.cat([scores[n][m] for n, m in masks.items()])
    gone = torch.cat([scores[n][~m] for n, m in masks.items()])
    assert gone.numel() == math.ceil(0.6 * (kept.numel() + gone.numel()))
    if score == "snip":
        assert gone.max() <= kept.min() * (1 + 1e-4)
    else:  # differences are rough: of the lowest half of what is gone nothing may be kept
        assert gone.median() < kept.min()
    model(**batch("bert")).loss.backward()
    assert all((p.grad[~masks[n]] == 0).all() for n, p in _matrices(model).items())


def test_scores_look_at_the_examples_that_they_are_given():
    one, _ = prepared({"name": "sparse-adapter", "reduction": 4, "examples": 2}, "bert")
    two, _ = prepared({"name": "sparse-adapter", "reduction": 4, "examples": 2}, "bert", seed=1)
    assert any(not torch.equal(a, b) for a, b in zip(_masks(one).values(), _masks(two).values(), strict=True))


def test_synaptic_flow_by_hand():
    model, _ = prepared({"name": "sparse-adapter", "reduction": 4, "score": "synflow", "activation": "relu"}, "bert")
    weights, masks = _matrices(model), _masks(model)
    scores = {}
    for name, p in weights.items():
        if name.endswith("down.weight"):
            other = weights[name.replace("down", "up")].detach().abs()
            scores[name] = p.detach().abs() * other.sum(0)[:, None]
        else:
            other = weights[name.replace("up", "down")].detach().abs()
            scores[name] = p.detach().abs() * other.sum(1)[None, :]
    kept = torch.cat([scores[n][m] for n, m in masks.items()])
    gone = torch.cat([scores[n][~m] for n, m in masks.items()])
    assert gone.max() <= kept.min() * (1 + 1e-5)


@pytest.mark.parametrize("k", [2, 4])
def test_large_sparse_keeps_as_many_weights(k):
    _, narrow = prepared({"name": "sparse-adapter", "bottleneck": 4, "sparsity": 0.0}, "bert")
    large, method = prepared({"name": "sparse-adapter", "bottleneck": 4 * k, "sparsity": 1 - 1 / k}, "bert")
    dense, _ = prepared({"name": "sparse-adapter", "bottleneck": 4, "sparsity": 0.0}, "bert")
    kept = sum(int(mask.sum()) for mask in _masks(large).values())
    assert kept == method.cost(large)["kept"] == narrow.cost(dense)["kept"] == 4 * 2 * 32 * 4


def test_the_score_is_the_derivative_by_the_mask():
    model, _ = prepared({"name": "sparse-adapter", "reduction": 4}, "bert")
    model = model.double()
    model(**batch("bert")).loss.backward()
    weight = next(iter(_matrices(model).values()))
    place = divmod(int((weight.grad * weight).abs().argmax()), weight.shape[1])
    start, losses = weight[place].item(), []
    with torch.no_grad():
        for scale in (1 + 1e-4, 1 - 1e-4):  # a mask that is not quite one
            weight[place] = start * scale
            losses.append(float(model(**batch("bert")).loss))
    slope = (losses[0] - losses[1]) / 2e-4
    assert slope == pytest.approx(float(weight.grad[place]) * start, rel=1e-4)


def test_pruned_weights_neither_work_nor_come_back():
    model, method = prepared({"name": "sparse-adapter", "reduction": 4, "sparsity": 0.5, "score": "magnitude"}, "bert")
    masks = _masks(model)
    with torch.no_grad():
        logits = model(**batch("bert")).logits
        for name, parameter in _matrices(model).items():
            parameter[~masks[name]] += 3.0
        assert torch.equal(model(**batch("bert")).logits, logits)
    model(**batch("bert")).loss.backward()
    assert all((p.grad[~masks[n]] == 0).all() for n, p in _matrices(model).items())
    model = method.finalize(model)
    assert not _masks(model)
    assert all((p[~masks[n]] == 0).all() for n, p in _matrices(model).items())
    with torch.no_grad():
        assert torch.equal(model(**batch("bert")).logits, logits)


PAIRS = {"name": "lora", "rank": 4, "alpha": 8, "initial_std": 0.2}


def _pruned(first, second, seed=0):
    """Return a tiny bert with one method's modules and masks on them, and both methods."""
    model, dense = prepared(first, "bert", seed)
    found, config = parse(second)
    method = found.create(config)
    method.prepare(model, context("bert", seed, total_steps=1))
    return model, dense, method


def test_masks_on_adapters_are_those_of_sparse_adapters():
    options = {"reduction": 4, "initial_std": 0.02}
    together, _ = prepared({"name": "sparse-adapter", "sparsity": 0.5, **options}, "bert")
    composed, _, _ = _pruned({"name": "adapter", **options}, {"name": "sparse-modules", "sparsity": 0.5})
    masks = _masks(composed)
    assert masks.keys() == _masks(together).keys()
    assert all(torch.equal(mask, masks[name]) for name, mask in _masks(together).items())


@pytest.mark.parametrize("score", ["snip", "synflow", "magnitude"])
def test_pairs_of_lora_are_pruned_by_their_scores(score):
    model, _, method = _pruned(PAIRS, {"name": "sparse-modules", "sparsity": 0.6, "score": score})
    plain, _ = prepared(PAIRS, "bert")
    weights = {n: p for n, p in plain.named_parameters() if ".lora_" in n}
    if score == "snip":
        plain(**batch("bert")).loss.backward()
        scores = {n: (p.grad * p).abs().detach() for n, p in weights.items()}
    elif score == "magnitude":
        scores = {n: p.detach().abs() for n, p in weights.items()}
    else:  # R = sum_o |B| |A| 1: its derivative by |A|[r, i] is the sum of |B|[:, r], by |B|[o, r] that of |A|[r, :]
        scores = {}
        for name, p in weights.items():
            other = weights[name.replace("_A", "_X").replace("_B", "_A").replace("_X", "_B")].detach().abs()
            scores[name] = p.detach().abs() * (other.sum(0)[:, None] if "_A" in name else other.sum(1)[None, :])
    masks = _masks(model)
    assert masks.keys() == scores.keys()
    kept = torch.cat([scores[n][m] for n, m in masks.items()])
    gone = torch.cat([scores[n][~m] for n, m in masks.items()])
    assert gone.max() <= kept.min() * (1 + 1e-4)
    # Two layers, query and value, 4 x (32 + 32) weights each.
    assert method.cost(model) == {"prunable": 1024, "pruned": math.ceil(0.6 * 1024), "kept": kept.numel()}


def test_a_wider_pruned_pair_has_the_weights_of_a_narrow_one():
    model, _, method = _pruned({**PAIRS, "rank": 8}, {"name": "sparse-modules", "sparsity": 0.75, "score": "random"})
    narrow, _ = prepared({**PAIRS, "rank": 2}, "bert")
    assert method.cost(model)["kept"] == sum(p.numel() for n, p in narrow.named_parameters() if ".lora_" in n)
    assert sum(int(mask.sum()) for mask in _masks(model).values()) == method.cost(model)["kept"]


def test_what_lora_merges_has_no_pruned_weight():
    model, lora, method = _pruned(PAIRS, {"name": "sparse-modules", "sparsity": 0.5})
    masks = _masks(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(3):
        model(**batch("bert")).loss.backward()
        assert all((model.get_parameter(name).grad[~mask] == 0).all() for name, mask in masks.items())
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():  # what noise on the gradient would do
        for name, mask in masks.items():
            model.get_parameter(name)[~mask] += 1.0
        logits = model(**batch("bert")).logits
    name = "bert.encoder.layer.0.attention.self.query"
    base = model.get_submodule(name).base_layer.weight.clone()
    a, b = (model.get_parameter(f"{name}.lora_{x}.default.weight") for x in "AB")
    wanted = base + 8 / 4 * (b * masks[f"{name}.lora_B.default.weight"]) @ (a * masks[f"{name}.lora_A.default.weight"])
    wanted = wanted.detach()
    method.on_step_end(model, context("bert", step=1, total_steps=1))
    model = method.finalize(lora.finalize(model))
    torch.testing.assert_close(model.get_parameter(f"{name}.weight"), wanted)
    torch.testing.assert_close(model(**batch("bert")).logits, logits, rtol=1e-4, atol=1e-5)
    assert not _masks(model)


def test_a_prefix_is_pruned_and_stored_with_its_zeros():
    first = {"name": "prefix-tuning", "tokens": 5}
    model, prefix, method = _pruned(first, {"name": "sparse-modules", "sparsity": 0.8})
    (mask,) = _masks(model).values()
    assert mask.shape == (5, 2 * 2 * 32)
    assert int(mask.sum()) == 5 * 128 - 512
    with torch.no_grad():
        logits = model(**batch("bert")).logits
        method.on_step_end(model, context("bert", step=1, total_steps=1))
        model = method.finalize(prefix.finalize(model))
        torch.testing.assert_close(model(**batch("bert")).logits, logits)
    assert type(model.bert.prefix.embedding) is torch.nn.Embedding
    assert int((model.bert.prefix.embedding.weight != 0).sum()) == 128


@pytest.mark.parametrize(
    "first, second, message",
    [
        ({"name": "lora"}, {}, r"lora_B.default' starts at zero.*initial_std"),
        ({"name": "compacter", "reduction": 4}, {}, "is no matrix of a layer"),
        ({"name": "bitfit"}, {}, "no matrix is trained besides the head"),
        ({"name": "prefix-tuning", "tokens": 3}, {"score": "synflow"}, "knows the matrices of adapters and of LoRA"),
    ],
)
def test_what_cannot_be_pruned_is_said(first, second, message):
    with pytest.raises(ConfigError, match=message):
        _pruned(first, {"name": "sparse-modules", **second})
