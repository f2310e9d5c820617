"""DEFT: the density loss and the counted density by hand, what counts as padding, and that training makes activations sparser."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from replica import models
from replica.config.asset_schema import ModelEntry
from replica.errors import ConfigError
from replica.methods import Context, parse
from replica.methods.peft.deft.method import activations, density_loss

from .peft_models import batch, context, tiny


def deft(**config):
    entry, parsed = parse({"name": "deft", **config})
    return entry.create(parsed)


def relu_model(kind: str = "bert"):
    model = tiny(kind)
    for layer in model.bert.encoder.layer:
        layer.intermediate.intermediate_act_fn = nn.ReLU()
    return model


def outputs_of(model, rows):
    found = []
    handles = [m.register_forward_hook(lambda _m, _i, out: found.append(out)) for m in activations(model)]
    loss = model(**rows).loss
    for handle in handles:
        handle.remove()
    return loss, found


@pytest.mark.parametrize("padding", [True, False])
def test_loss_is_the_tasks_and_the_density(padding):
    model, rows = tiny("bert"), batch("bert")
    method = deft(weight=2.0, epsilon=1e-3, padding=padding)
    method.prepare(model, Context())
    loss, outputs = outputs_of(model, rows)
    assert len(outputs) == 2 and outputs[0].shape == (8, 12, 64)
    layers = []
    for output in outputs:
        examples = []
        for row in range(8):
            tokens = 12 if padding or row < 7 else 6  # the last row is padded from the sixth token on
            o = output[row, :tokens].double()
            examples.append((o**2 / (o**2 + 1e-3)).mean())
        layers.append(torch.stack(examples).mean())
    wanted = float(loss + 2.0 * torch.stack(layers).mean())
    assert float(method.loss(model, rows, Context())) == pytest.approx(wanted, rel=1e-5)
    assert float(deft(weight=0.0).loss(model, rows, Context())) == pytest.approx(float(loss), rel=1e-6)


def test_encoder_and_decoder_are_added():
    model, rows = tiny("t5"), batch("t5")
    loss, outputs = outputs_of(model, rows)
    assert [o.shape[1] for o in outputs] == [12, 12, 2, 2]
    share = [float((o**2 / (o**2 + 1e-7)).mean()) for o in outputs]
    wanted = float(loss) + (share[0] + share[1]) / 2 + (share[2] + share[3]) / 2
    method = deft()
    assert float(method.loss(model, rows, Context(head="text2text"))) == pytest.approx(wanted, rel=1e-5)
    gated = ModelEntry(
        title="t", architecture="t5", config={"d_model": 16, "d_ff": 32, "num_layers": 1, "num_heads": 2, "feed_forward_proj": "gated-gelu"}
    )  # fmt: skip
    model = models.build(gated, head="text2text", device="meta")
    blocks = [b.layer[-1].DenseReluDense for stack in (model.encoder, model.decoder) for b in stack.block]
    assert activations(model) == [block.act for block in blocks]


def test_half_precision_does_not_hide_small_activations():
    small = torch.full((1, 1, 4), 2e-4)
    plain = density_loss([small], [None], 1e-7, 1)
    assert float(density_loss([small.half()], [None], 1e-7, 1)) == pytest.approx(float(plain), rel=1e-2)
    assert float(plain) == pytest.approx(4e-8 / (4e-8 + 1e-7), rel=1e-4)


def test_density_is_the_share_that_is_not_exactly_zero():
    model, rows = relu_model(), batch("bert")
    method = deft(weight=0.0, examples=5)
    given = context("bert", total_steps=1, unseen=lambda count: {k: v[:count] for k, v in rows.items()})
    method.prepare(model, given)
    method.on_step_end(model, given)
    assert torch.isnan(torch.tensor(method.reported(model, given)["density"])), "training has not ended"
    given.step = 1
    method.on_step_end(model, given)
    _, outputs = outputs_of(model, {k: v[:5] for k, v in rows.items()})
    wanted = [float((o != 0).float().mean()) for o in outputs]
    found = method.reported(model, given)
    assert [found["layer0"], found["layer1"]] == pytest.approx(wanted)
    assert found["density"] == pytest.approx(sum(wanted) / 2) and 0 < found["density"] < 1


def test_adapters_learn_to_leave_fewer_activations():
    found = {}
    for weight in (0.0, 1.0):
        model, given = relu_model(), context("bert", total_steps=60)
        given.unseen = lambda count: batch("bert")
        entry, config = parse({"name": "adapter", "reduction": 2, "layer_norms": False})
        entry.create(config).prepare(model, given)
        frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
        method = deft(weight=weight, epsilon=1e-2)
        method.prepare(model, given)
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
        for _ in range(60):
            method.loss(model, batch("bert"), given).backward()
            optimizer.step()
            optimizer.zero_grad()
            given.step += 1
            method.on_step_end(model, given)
        assert all(torch.equal(p, frozen[name]) for name, p in model.named_parameters() if name in frozen)
        found[weight] = method.reported(model, given)
    assert found[1.0]["layer1"] < 0.8 * found[0.0]["layer1"]


def test_an_architecture_without_a_known_activation_is_refused():
    entry = ModelEntry(title="b", architecture="vim", config={"image_size": 16, "patch_size": 8, "hidden_size": 16})
    model = models.build(entry, head="image", device="meta")
    with pytest.raises(ConfigError, match="architecture 'vim' has no known feed-forward activation; known: bert"):
        deft().prepare(model, Context())
