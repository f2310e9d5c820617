"""Private gradients: against a loop over examples, opacus' own gradients and accountants, and the noise against its formula."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from replica import models
from replica.config.asset_schema import ModelEntry
from replica.errors import ConfigError
from replica.methods import Context, parse
from replica.methods.privacy.private_gradients.accounting import find_noise, spent
from replica.methods.privacy.private_gradients.method import clipped_sum
from replica.methods.privacy.private_gradients.poisson_sampler import PoissonSampler
from tests.methods.peft_models import batch as sentences
from tests.methods.peft_models import context as sentences_context
from tests.methods.peft_models import prepared

TINY = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 32}


def _model():
    entry = ModelEntry(title="tiny", architecture="bert", config=TINY)
    return models.build(entry, head="classification", labels=2).eval()


def _method(**config):
    entry, parsed = parse({"name": "private-gradients", **config})
    return entry.create(parsed)


def _rows(rows: int = 6) -> dict[str, torch.Tensor]:
    mask = torch.ones(rows, 5, dtype=torch.long)
    mask[-1, 3:] = 0
    return {
        "input_ids": torch.randint(0, 64, (rows, 5), generator=torch.Generator().manual_seed(2)),
        "attention_mask": mask,
        "labels": torch.arange(rows) % 2,
    }


def _brute_force(model, rows, clip: float) -> dict[str, torch.Tensor]:
    """Clip each example's gradient by the norm over all tensors, and add them up: one backward pass for each example."""
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters() if p.requires_grad}
    for index in range(len(rows["labels"])):
        model.zero_grad()
        model(**{key: value[index : index + 1] for key, value in rows.items()}).loss.backward()
        found = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad and p.grad is not None}
        norm = math.sqrt(sum(float(g.double().square().sum()) for g in found.values()))
        for name, gradient in found.items():
            total[name] += gradient * min(1.0, clip / norm)
    model.zero_grad()
    return total


@pytest.mark.parametrize("vectorised", [True, False])
@pytest.mark.parametrize("clip", [0.5, 1e6])
def test_gradient_is_the_mean_of_clipped_ones(clip, vectorised):
    model, context = _model(), Context(batch_size=6)
    method = _method(clip=clip, noise=0.0, vectorised=vectorised, chunk=4)
    method.prepare(model, context)
    rows = _rows()
    wanted = _brute_force(model, rows, clip)
    loss = method.loss(model, {**rows, "example_id": torch.arange(6)}, context)
    each = [model(**{k: v[i : i + 1] for k, v in rows.items()}).loss for i in range(6)]
    torch.testing.assert_close(loss.detach(), torch.stack(each).mean().detach())
    loss.backward()
    assert all(p.grad is None or not p.grad.any() for p in model.parameters()), (
        "only the clipped sum is left for the step"
    )
    method.on_gradients(model, context)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name] / 6, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("reference", "kind"),
    [
        ({"name": "adapter", "reduction": 4, "layer_norms": False}, "bert"),
        ({"name": "lora", "rank": 2}, "bert"),
        ({"name": "compacter", "reduction": 4, "layer_norms": False}, "bert"),
        ({"name": "compacter", "reduction": 4, "layer_norms": False, "own_rules": True, "biases": False}, "bert"),
        ({"name": "lora", "rank": 2}, "t5"),
        ({"name": "lora", "rank": 2}, "gpt2"),
    ],
)
def test_plug_ins_have_the_gradients_of_a_loop(reference, kind):
    model, _ = prepared(reference, kind)
    with torch.no_grad():  # away from the start, where half of the factors have no gradient
        for number, p in enumerate(q for q in model.parameters() if q.requires_grad):
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(number)) * 0.1)
    rows = sentences(kind)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    wanted = _brute_force(model, rows, 0.3)
    context = sentences_context(kind)
    for chunk in (0, 3, 16):
        found, _ = clipped_sum(model, rows, context, trained, 0.3, chunk)
        for name, gradient in zip(trained, found, strict=True):
            torch.testing.assert_close(gradient, wanted[name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("prompt-tuning", "bert"),
        ("prompt-tuning", "roberta"),
        ("prompt-tuning", "t5"),
        ("prefix-tuning", "bert"),
        ("prefix-tuning", "roberta"),
    ],
)
def test_prompts_and_prefixes_have_the_gradients_of_one_example_after_the_other(name, kind):
    model, _ = prepared({"name": name, "tokens": 3}, kind)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    rows, context = sentences(kind), sentences_context(kind)
    wanted, losses = clipped_sum(model, rows, context, trained, 0.3)
    together, same = clipped_sum(model, rows, context, trained, 0.3, 3)
    torch.testing.assert_close(same, losses, rtol=0, atol=1e-6)  # rounding of float32
    for gradient, one_by_one in zip(together, wanted, strict=True):
        assert one_by_one.abs().max() > 1e-3
        torch.testing.assert_close(gradient, one_by_one, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("reference", "count"),
    [
        # by the layers of the released code, without the head: 24 x 2 x 768 x 48 and 24 x 2 x (8^3 + 768 + 96)
        ({"name": "adapter", "bottleneck": 48, "biases": False}, 1_769_472),
        ({"name": "compacter", "n": 8, "bottleneck": 96, "own_rules": True, "biases": False}, 66_048),
    ],
)
def test_plug_ins_of_the_paper_have_its_sizes(reference, count):
    sizes = {
        "vocab_size": 50265,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
    }
    model = models.build(
        ModelEntry(title="r", architecture="roberta", config=sizes), head="classification", device="meta"
    )
    entry, config = parse({**reference, "layer_norms": False, "head": False})
    method = entry.create(config)
    method.prepare(model, Context())
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == count
    assert method.expected(model)["trainable_parameters"] == count


def test_single_gradients_are_those_of_opacus():
    grad_sample = pytest.importorskip("opacus.grad_sample")
    model, _ = prepared({"name": "lora", "rank": 2}, "bert")
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    rows, clip = sentences("bert"), 0.2
    ours, _ = clipped_sum(model, rows, Context(), trained, clip, 8)
    theirs = grad_sample.GradSampleModule(copy.deepcopy(model), loss_reduction="mean").train()
    theirs(**rows).loss.backward()
    samples = {n.removeprefix("_module."): p.grad_sample for n, p in theirs.named_parameters() if p.requires_grad}
    norms = torch.stack([s.flatten(1).norm(dim=1) for s in samples.values()]).norm(dim=0)
    assert (norms > clip).any()
    factor = (clip / norms).clamp(max=1.0)
    for name, gradient in zip(trained, ours, strict=True):
        torch.testing.assert_close(gradient, torch.einsum("b,b...->...", factor, samples[name]), rtol=1e-3, atol=1e-5)


def test_the_bound_holds_under_autocast():
    """Each example alone, all of them clipped: the norm of what it adds is C to the precision of float32."""
    model, rows = _model(), _rows()
    trained = dict(model.named_parameters())
    with torch.autocast("cpu", torch.bfloat16):
        for index in range(6):
            found, _ = clipped_sum(
                model, {k: v[index : index + 1] for k, v in rows.items()}, Context(), trained, 0.01, 4
            )
            assert float(torch.stack([g.double().norm() for g in found]).norm()) == pytest.approx(0.01, rel=1e-5)


def test_dropout_differs_between_examples():
    entry = ModelEntry(title="t", architecture="bert", config={**TINY, "hidden_dropout_prob": 0.5})
    model = models.build(entry, head="classification", labels=2).train()
    one = {key: value[:1].repeat_interleave(4, 0) for key, value in _rows().items()}
    trained = dict(model.named_parameters())
    _, losses = clipped_sum(model, one, Context(), trained, 1.0, 4)
    assert len(set(losses.tolist())) == 4


def test_parts_add_up_and_noise_comes_once():
    """Whole or in two parts, whatever a loop divides their losses by; sigma C / B on every coordinate; B is the nominal batch."""
    model, rows = _model(), _rows(8)
    gradients = {}
    for noise in (0.0, 3.0):
        for parts in (1, 2):
            method, context = _method(clip=2.0, noise=noise), Context(batch_size=10)
            method.prepare(model, context)
            model.zero_grad()
            for part in range(parts):
                places = slice(part * 8 // parts, (part + 1) * 8 // parts)
                (method.loss(model, {k: v[places] for k, v in rows.items()}, context) / 7).backward()
            method.on_gradients(model, context)
            assert method._sum is None
            gradients[noise, parts] = [p.grad.clone() for p in model.parameters()]
    wanted = _brute_force(model, rows, 2.0)
    for one, two, name in zip(gradients[0.0, 1], gradients[0.0, 2], wanted, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(one, wanted[name] / 10, rtol=1e-4, atol=1e-6)
    noise = torch.cat([(a - b).flatten() for a, b in zip(gradients[3.0, 2], gradients[0.0, 2], strict=True)])
    assert float(noise.std()) == pytest.approx(3.0 * 2.0 / 10, rel=0.03)
    cost = method.cost(model)
    assert cost["trained"] == noise.numel()
    assert cost["noise_std"] == pytest.approx(0.6, rel=0.03)
    assert cost["noise_norm"] == pytest.approx(0.6 * noise.numel() ** 0.5, rel=0.03)


def test_a_draw_without_examples_is_noise_alone():
    model, context = _model(), Context(batch_size=4, rows=100)
    method = _method(clip=1.0, noise=1.0)
    method.prepare(model, context)
    nobody = {**{k: v[:1] for k, v in _rows().items()}, "example_id": torch.tensor([-1])}
    loss = method.loss(model, nobody, context)
    loss.backward()
    assert float(loss.detach()) == 0.0
    method.on_gradients(model, context)
    noise = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert float(noise.std()) == pytest.approx(0.25, rel=0.03)


def test_noise_depends_on_seed_and_step_alone():
    draws = {}
    for seed, step in ((0, 0), (0, 1), (1, 0), (0, 0)):
        gradient = torch.zeros(50)
        method = _method(clip=1.0, noise=1.0, batch=1)
        method.add_noise(gradient, method.generator(seed, step))
        draws.setdefault((seed, step), []).append(gradient)
    assert torch.equal(*draws[0, 0])
    assert not torch.equal(draws[0, 0][0], draws[0, 1][0]) and not torch.equal(draws[0, 0][0], draws[1, 0][0])


# --- sampling and accounting --------------------------------------------------------------------------------------------


def test_poisson_sampling_draws_each_example_by_itself():
    sampler = PoissonSampler(1000, 50, seed=3)
    sizes, seen, together = [], torch.zeros(1000), 0
    for epoch in range(40):
        sampler.set_epoch(epoch)
        for rows in sampler:
            sizes.append(len(rows))
            seen[rows] += 1
            together += 0 in rows and 1 in rows
    draws = len(sizes)
    assert draws == 40 * 20 and len(set(sizes)) > 10
    mean = torch.tensor(sizes).float().mean()
    assert float(mean) == pytest.approx(50, rel=0.02)  # 800 binomials of variance 47.5
    assert float(torch.tensor(sizes).float().var()) == pytest.approx(47.5, rel=0.2)
    assert float(seen.mean()) / draws == pytest.approx(0.05, rel=0.02)
    assert together <= 10  # 800 x 0.0025 = 2 expected
    again = PoissonSampler(1000, 50, seed=3)
    again.set_epoch(39)
    sampler.set_epoch(39)
    assert list(again) == list(sampler)


def test_epsilon_is_that_of_opacus_own_bookkeeping():
    accountants = pytest.importorskip("opacus.accountants")
    for name, made in (("rdp", accountants.RDPAccountant), ("prv", accountants.PRVAccountant)):
        account = made()
        for _ in range(60):
            account.step(noise_multiplier=1.1, sample_rate=0.02)
        assert spent(1.1, 0.02, 60, 1e-5, name) == pytest.approx(account.get_epsilon(delta=1e-5), rel=1e-6)
    assert spent(0.0, 0.02, 60, 1e-5, "prv") == math.inf
    assert spent(0.05, 0.08, 500, 1e-5, "prv") == spent(0.05, 0.08, 500, 1e-5, "rdp") > 50


def test_without_subsampling_epsilon_is_the_gaussian_mechanisms():
    """q = 1: T steps are one Gaussian mechanism of sigma / sqrt(T), whose exact curve is known (Balle and Wang 2018)."""
    from scipy.optimize import brentq
    from scipy.stats import norm

    pytest.importorskip("opacus")
    mu = math.sqrt(16) / 8.0

    def delta(epsilon):
        return norm.cdf(-epsilon / mu + mu / 2) - math.exp(epsilon) * norm.cdf(-epsilon / mu - mu / 2)

    exact = brentq(lambda e: delta(e) - 1e-5, 0.01, 20)
    assert spent(8.0, 1.0, 16, 1e-5, "prv") == pytest.approx(exact, abs=0.02)
    assert exact < spent(8.0, 1.0, 16, 1e-5, "rdp") < exact * 1.3


@pytest.mark.parametrize("accountant", ["rdp", "prv"])
def test_noise_keeps_to_the_budget(accountant):
    pytest.importorskip("opacus")
    noise = find_noise(3.0, 1e-5, 0.03, 100, accountant)
    assert 2.9 < spent(noise, 0.03, 100, 1e-5, accountant) <= 3.0
    method, model = _method(epsilon=3.0, accountant=accountant), _model()
    context = Context(rows=1000, batch_size=30, total_steps=100)
    method.prepare(model, context)
    found = method.reported(model, context)
    assert found["noise_multiplier"] == noise and found["sample_rate"] == 0.03 and found["steps"] == 100
    assert found["epsilon"] == found[f"epsilon_{accountant}"] <= 3.0 and found["epsilon_prv"] < found["epsilon_rdp"]
    assert found["stated"].startswith(f"epsilon {found['epsilon']:.3g} ({accountant}) at delta 1e-05")
    assert method.deviation == pytest.approx(noise * 10.0 / 30)


def test_what_does_not_fit_is_said():
    for config in ({}, {"noise": 1.0, "epsilon": 3.0}):
        with pytest.raises(ConfigError, match="either `noise`"):
            _method(**config)
    with pytest.raises(ConfigError, match="is not the run's batch_size 8"):
        _method(noise=1.0, batch=6).prepare(_model(), Context(batch_size=8))
    with pytest.raises(ConfigError, match="needs a run with data"):
        _method(epsilon=1.0).prepare(_model(), Context(batch_size=8))
    method = _method(noise=1.0)
    method.prepare(_model(), Context(batch_size=8))
    with pytest.raises(ConfigError, match="accumulate: 1"):
        method.sampler(100, 4, 0, [])
    assert _method(noise=1.0, batch=8, sampling="shuffled").sampler(100, 4, 0, []) is None
