"""SparseAdapter: how many weights stay, which ones, and that the others neither work nor move."""

from __future__ import annotations

import math

import pytest
import torch

from replica import models
from replica.config.asset_schema import ModelEntry
from replica.methods import Context, parse

from .peft_models import batch, prepared

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
    method = found.load()(config)
    method.prepare(model, Context())
    weights = 24 * 2 * 768 * 64
    assert method.cost(model) == {"prunable": weights, "pruned": math.ceil(0.8 * weights), "kept": 471_859}
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == weights + 24 * (768 + 64)


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
