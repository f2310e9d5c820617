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


def test_snip_keeps_what_the_loss_depends_on_most():
    model, method = prepared({"name": "sparse-adapter", "reduction": 4, "sparsity": 0.6}, "bert")
    assert all(mask.all() for mask in _masks(model).values())
    model(**batch("bert")).loss.backward()
    scores = {n: (p.grad * p).abs().detach().clone() for n, p in _matrices(model).items()}
    method.on_gradients(model, Context(step=0))
    kept = torch.cat([scores[n][m] for n, m in _masks(model).items()])
    gone = torch.cat([scores[n][~m] for n, m in _masks(model).items()])
    total = kept.numel() + gone.numel()
    assert gone.numel() == math.ceil(0.6 * total)
    assert gone.max() <= kept.min()
    masks = _masks(model)
    assert all((p.grad[~masks[n]] == 0).all() for n, p in _matrices(model).items())


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
