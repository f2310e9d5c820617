"""Mixture of domain adapters: the published counts, both gates by hand, the two losses, and what each stage trains."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from replica import models
from replica.config.asset_schema import ModelEntry
from replica.errors import ConfigError
from replica.methods import Context, parse
from replica.methods.stored import load_model, save_model

from .peft_models import batch, context, tiny

LARGE = {
    "vocab_size": 50265,
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
}
NAME = "mixture-of-domain-adapters"


def mixda(**config):
    entry, parsed = parse({"name": NAME, **config})
    return entry.create(parsed)


def trainable(model) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_counts_of_the_released_code():
    """Two adapters of 1,312,000, two gates of 4,329,218; stage two trains gates and 24 Pfeiffer adapters, 11,830,276 in all."""
    entry = ModelEntry(title="r", architecture="roberta", config=LARGE)
    model = models.build(entry, head="mlm", device="meta")
    method = mixda(gate="released")
    method.prepare(model, Context())
    assert trainable(model) == 2 * 1_312_000 + 2 * 4_329_218 == method.expected(model)["trainable_parameters"]
    model = models.build(entry, head="classification", device="meta")
    adapters = {
        "name": "adapter",
        "reduction": 16,
        "places": "feed-forward",
        "activation": "silu",
        "layer_norms": False,
        "head": False,
    }
    found, config = parse(adapters)
    found.create(config).prepare(model, Context())
    assert trainable(model) == 3_171_840
    mixda(gate="released", stage="task", head=False).prepare(model, Context())
    assert trainable(model) == 11_830_276


def made(seed: int = 0, **config):
    model, given = tiny("bert"), context("bert", seed)
    method = mixda(layers=[1], **config)
    method.prepare(model, given)
    with torch.no_grad():  # away from the start, where the adapters add nothing
        for number, mixture in enumerate(method.mixtures(model)):
            for adapter in mixture.adapters:
                adapter.up.weight.copy_(
                    torch.randn(adapter.up.weight.shape, generator=torch.Generator().manual_seed(number)) * 0.2
                )
    return model, method, given


def inside(model):
    """Return what goes into and comes out of layer 1's parts: attention output, activation, feed-forward output, layer output."""
    found, layer = {}, model.bert.encoder.layer[1]
    spots = {"attended": layer.intermediate, "activation": layer.output.dense}
    handles = [
        m.register_forward_pre_hook(lambda _m, args, name=name: found.update({name: args[0]}))
        for name, m in spots.items()
    ]
    handles.append(layer.output.register_forward_hook(lambda _m, args, out: found.update(output=out)))
    loss = model(**batch("bert")).loss
    for handle in handles:
        handle.remove()
    dense = layer.output.dense
    found["plain"] = found["activation"] @ dense.weight.t() + dense.bias
    return loss, found


@pytest.mark.parametrize("gate", ["paper", "released", "none"])
def test_output_is_the_gated_sum(gate):
    model, method, _ = made(gate=gate, adapters=2, **({"gate_width": 8} if gate == "released" else {}))
    _, seen = inside(model)
    [mixture] = method.mixtures(model)
    parts = [a.up(nn.functional.gelu(a.down(seen["activation"]))) for a in mixture.adapters] + [seen["plain"]]
    if gate == "paper":
        down, up = mixture.gate[0], mixture.gate[2]
        weights = torch.sigmoid(torch.relu(seen["attended"] @ down.weight.t() + down.bias) @ up.weight.t() + up.bias)
        assert weights.shape == (8, 12, 3)
    elif gate == "released":
        last = seen["activation"][:, -1]
        for linear in [m for m in mixture.gate if isinstance(m, nn.Linear)]:
            last = linear(torch.relu(last) if linear is not mixture.gate[1] else last)
        weights = torch.softmax(last, -1)[:, None]
        assert [m.p for m in mixture.gate if isinstance(m, nn.Dropout)] == [0.2] * 4
    else:
        weights = torch.ones(1, 1, 3)
    mixed = sum(weights[..., i : i + 1] * part for i, part in enumerate(parts))
    wanted = model.bert.encoder.layer[1].output.LayerNorm(mixed + seen["attended"])
    torch.testing.assert_close(seen["output"], wanted, rtol=1e-4, atol=1e-5)


def test_adapters_start_without_an_effect():
    plain, model = tiny("bert"), tiny("bert")
    mixda(layers=[0, 1], gate="none").prepare(model, Context())
    torch.testing.assert_close(model(**batch("bert")).logits, plain(**batch("bert")).logits)


def test_domain_loss_is_balanced_with_agreement_on_general_text():
    model, method, given = made(balance=0.25)
    with pytest.raises(ConfigError, match="keeps to general text"):
        method.loss(model, batch("bert"), given)
    given.beside = lambda step, count: batch("bert", count)
    found = method.loss(model, batch("bert"), given)
    loss, seen = inside(model)
    layer = model.bert.encoder.layer[1]
    apart = (seen["output"] - layer.output.LayerNorm(seen["plain"] + seen["attended"])).square().mean()
    assert float(apart) > 0
    assert float(found) == pytest.approx(0.25 * float(loss) + float(apart), rel=1e-5)
    assert given.recorded["sampling_loss"] == pytest.approx(float(apart), rel=1e-5)
    assert float(mixda(layers=[1], general=False).loss(model, batch("bert"), given)) == pytest.approx(
        float(loss), rel=1e-6
    )


def test_general_text_is_not_put_through_the_head():
    """Of general text only what the layers give counts: the head reads the domain's words alone, and the loss is the same."""
    model, method, given = made(balance=0.25)
    given.beside = lambda step, count: batch("bert", count)
    read = []
    model.classifier.register_forward_hook(lambda module, inputs, output: read.append(output.shape))
    found = method.loss(model, batch("bert"), given)
    assert len(read) == 1
    apart = torch.tensor(given.recorded["sampling_loss"])
    torch.testing.assert_close(found, 0.25 * model(**batch("bert")).loss + apart)


def test_dropout_is_on_the_feed_forward_output_alone():
    """Mixed with dropout 0.5 in training: what the adapters add is not dropped, and nothing is dropped after the mixture."""
    model = tiny("bert")
    for layer in model.bert.encoder.layer:
        layer.output.dropout.p = 0.5
    method = mixda(layers=[1], gate="none")
    method.prepare(model, context("bert"))
    layer = model.bert.encoder.layer[1]
    assert layer.output.dropout.p == 0.0 and method.mixtures(model)[0].dropout.p == 0.5
    with torch.no_grad():
        method.mixtures(model)[0].adapters[0].up.bias.fill_(100.0)
    model.train()
    seen = {}
    layer.output.dropout.register_forward_hook(lambda _m, _a, out: seen.update(out=out))
    model(**batch("bert"))
    assert float(seen["out"].min()) > 50 and bool((seen["out"] == 100.0).any())


def test_what_each_stage_trains(tmp_path):
    entry = ModelEntry(
        title="t", architecture="bert",
        config={"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64},
    )  # fmt: skip
    model = models.build(entry, head="mlm", seed=1)
    first = mixda(layers=[1], adapters=2, which=1)
    first.prepare(model, Context())
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    assert all(".mixture.adapters.1." in name or ".mixture.gate." in name for name in names) and len(names) == 4 + 4
    stored = [{"name": NAME, "layers": [1], "adapters": 2, "which": 1}]
    save_model(first.finalize(model), tmp_path, head="mlm", labels=0, structure=stored)

    second = mixda(layers=[1], adapters=2, stage="task")
    loaded, structure = load_model(tmp_path, head="classification", labels=2, methods={NAME: second})
    given = context("bert")
    given.restored = frozenset(item["name"] for item in structure)
    assert torch.equal(
        second.mixtures(loaded)[0].adapters[1].down.weight, first.mixtures(model)[0].adapters[1].down.weight
    )
    adapters, config = parse(
        {"name": "adapter", "reduction": 4, "places": "feed-forward", "activation": "silu", "layer_norms": False}
    )
    adapters.create(config).prepare(loaded, given)
    with pytest.raises(ConfigError, match="the gates are frozen"):
        second.loss(loaded, batch("bert"), given)
    second.prepare(loaded, given)
    names = {name for name, p in loaded.named_parameters() if p.requires_grad}
    assert {name.split(".")[0] for name in names if ".adapter." not in name and ".gate." not in name} == {"classifier"}
    assert not any(".mixture.adapters." in name for name in names)
    before = {name: p.clone() for name, p in loaded.named_parameters()}
    optimizer = second.optimizer(loaded, given)
    second.loss(loaded, batch("bert"), given).backward()
    for group in optimizer.param_groups:
        group["lr"] = 1e-2
    optimizer.step()
    assert all(torch.equal(p, before[name]) for name, p in loaded.named_parameters() if name not in names)
    given.unseen = lambda count: batch("bert")
    weights = second.reported(loaded, given)
    assert set(weights) == {"layer1.adapter0", "layer1.adapter1", "layer1.backbone"} and all(
        0 < v < 1 for v in weights.values()
    )


def test_the_task_adapter_comes_after_the_mixture():
    model, method, given = made(gate="none")
    entry, config = parse({"name": "adapter", "reduction": 4, "places": "feed-forward"})
    adapters = entry.create(config)
    adapters.prepare(model, given)
    seen = {}
    dense = model.bert.encoder.layer[1].output.dense
    dense.adapter.register_forward_pre_hook(lambda _m, args: seen.update(before=args[0]))
    _, found = inside(model)
    [mixture] = method.mixtures(model)
    torch.testing.assert_close(seen["before"], found["plain"] + mixture.adapters[0](found["activation"]))


def test_a_task_adapter_with_normed_input_reads_the_norm_of_mixture_and_residual():
    """The released order: mixture, task adapter over the norm of mixture + residual, residual, norm."""
    model, method, given = made(gate="none")
    entry, config = parse({"name": "adapter", "reduction": 4, "places": "feed-forward", "input": "normed"})
    entry.create(config).prepare(model, given)
    seen = {}
    output = model.bert.encoder.layer[1].output
    output.dense.adapter.register_forward_pre_hook(lambda _m, args: seen.update(total=args[0], read=args[1]))
    output.register_forward_pre_hook(lambda _m, args: seen.update(residual=args[1]))
    _, found = inside(model)
    [mixture] = method.mixtures(model)
    total = found["plain"] + mixture.adapters[0](found["activation"]) + seen["residual"]
    torch.testing.assert_close(seen["total"], total)
    norm = output.LayerNorm
    torch.testing.assert_close(seen["read"], nn.functional.layer_norm(total, (32,), norm.weight, norm.bias, norm.eps))


def test_gates_may_have_a_rate_of_their_own():
    model, method, given = made(gate_rate=0.5)
    given.learning_rate = 0.1
    rates = {
        group["lr"]: sum(p.numel() for p in group["params"]) for group in method.optimizer(model, given).param_groups
    }
    gates = sum(p.numel() for m in method.mixtures(model) for p in m.gate.parameters())
    assert rates == {0.1: trainable(model) - gates, 0.5: gates}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"layers": [2]}, "not among the 2 layers"),
        ({"which": 1}, "not one of 1 adapters"),
        ({"stage": "task"}, "starts `from:`"),
    ],
)
def test_what_does_not_fit_is_said(config, message):
    with pytest.raises(ConfigError, match=message):
        mixda(**{"layers": [0], **config}).prepare(tiny("bert"), Context())
    with pytest.raises(ConfigError, match="'t5' is not supported"):
        mixda(layers=[0]).prepare(tiny("t5"), Context())
