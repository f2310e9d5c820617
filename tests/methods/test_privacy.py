"""Private gradients against gradients of each example by torch.func, and the noise against its formula."""

from __future__ import annotations

import pytest
import torch

from replica import models
from replica.config.asset_schema import ModelEntry
from replica.methods import Context, parse

TINY = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 32}


def _model():
    entry = ModelEntry(title="tiny", architecture="bert", config=TINY)
    return models.build(entry, head="classification", labels=2).eval()


def _method(**config):
    entry, parsed = parse({"name": "private-gradients", **config})
    return entry.load()(parsed)


@pytest.mark.parametrize("clip", [0.5, 1e6])
def test_gradient_is_the_mean_of_clipped_ones(clip):
    model, method, context = _model(), _method(clip=clip, noise=0.0, batch=6), Context()
    method.prepare(model, context)
    batch = {"input_ids": torch.randint(0, 64, (6, 5)), "labels": torch.tensor([0, 1, 0, 1, 1, 0])}
    loss = method.loss(model, {**batch, "example_id": torch.arange(6)}, context)
    torch.testing.assert_close(loss.detach(), model(**batch).loss.detach())
    loss.backward()
    method.on_gradients(model, context)

    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def one(values, ids, label):
        inputs = {"input_ids": ids[None], "labels": label[None]}
        return torch.func.functional_call(model, values, (), inputs).loss

    single = [torch.func.grad(one)(parameters, batch["input_ids"][i], batch["labels"][i]) for i in range(6)]
    norms = [torch.sqrt(sum(g.square().sum() for g in example.values())) for example in single]
    assert (max(norms) > clip) == (clip == 0.5)
    for name, parameter in model.named_parameters():
        wanted = sum(g[name] * min(1.0, clip / float(n)) for g, n in zip(single, norms, strict=True)) / 6
        torch.testing.assert_close(parameter.grad, wanted, rtol=1e-4, atol=1e-6)


def test_micro_batches_add_up_and_noise_comes_once():
    """Two halves of a batch, each divided by two as a training loop accumulates them; then sigma C / B on every coordinate."""
    model, context = _model(), Context()
    batch = {"input_ids": torch.randint(0, 64, (8, 5)), "labels": torch.arange(8) % 2}
    gradients, mean = [], []
    for parts in (1, 2):
        method = _method(clip=2.0, noise=3.0, batch=8)
        method.prepare(model, context)
        model.zero_grad()
        for part in range(parts):
            rows = slice(part * 8 // parts, (part + 1) * 8 // parts)
            (method.loss(model, {k: v[rows] for k, v in batch.items()}, context) / parts).backward()
        clean = [p.grad.clone() for p in model.parameters()]
        method.on_gradients(model, context)
        gradients.append([p.grad - c for p, c in zip(model.parameters(), clean, strict=True)])
        mean = mean or clean
        for first, second in zip(mean, clean, strict=True):
            torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-6)
    noise = torch.cat([g.flatten() for g in gradients[1]])
    assert float(noise.std()) == pytest.approx(3.0 * 2.0 / 8, rel=0.03)
    cost = method.cost(model)
    assert cost["trained"] == noise.numel()
    assert cost["noise_std"] == pytest.approx(0.75, rel=0.03)
    assert cost["noise_norm"] == pytest.approx(0.75 * noise.numel() ** 0.5, rel=0.03)
