"""SlimFit: its functions against plain autograd where the grids are exact, its schedule by hand, its bytes against the meter."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import set_seed

from replica import models
from replica.config.asset_schema import ModelEntry
from replica.errors import ConfigError
from replica.meters.memory import measure_memory
from replica.meters.options import MemoryOptions
from replica.methods import Context, parse
from replica.methods.memory.slimfit import compressed_functions as slim
from replica.methods.memory.slimfit.method import STATE, distance, units
from replica.models.sublayers import place_in_layers

BERT = {"vocab_size": 64, "hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 64, "hidden_act": "gelu"}
VIT = {"image_size": 32, "patch_size": 8, "hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 64}


def _model(kind: str = "bert", layers: int = 2, device: str = "cpu", **changes):
    config = {**(BERT if kind == "bert" else VIT), "num_hidden_layers": layers, **changes}
    head = "classification" if kind == "bert" else "image"
    return models.build(ModelEntry(title="tiny", architecture=kind, config=config), head=head, labels=2, device=device)


def _method(**config):
    entry, parsed = parse({"name": "slimfit", **config})
    return entry.create(parsed)


def _grid(*shape: int, step: float, low: int = -8, high: int = 7) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    codes = torch.randint(low, high + 1, shape, generator=generator)
    return (codes * step).double().requires_grad_()


def _same(ours, theirs, inputs, **tolerance):
    """Compare outputs and gradients of two functions of the same inputs."""
    first, second = ours(*inputs), theirs(*inputs)
    torch.testing.assert_close(first, second)
    weights = torch.randn(first.shape, generator=torch.Generator().manual_seed(1)).double()
    wanted = torch.autograd.grad((second * weights).sum(), inputs)
    for mine, plain in zip(torch.autograd.grad((first * weights).sum(), inputs), wanted, strict=True):
        torch.testing.assert_close(mine, plain, **tolerance)


def test_functions_are_plain_where_the_grid_holds_the_values():
    _same(slim.FourBitGELU.apply, functional.gelu, [_grid(3, 5, step=0.5)])
    query, key = _grid(2, 2, 5, 4, step=1 / 16), _grid(2, 2, 5, 4, step=1 / 8)
    _same(slim.QueryKeyProduct.apply, lambda q, k: q @ k.transpose(-1, -2), [query, key])
    x, weight, bias = _grid(2, 5, 4, step=1 / 16), torch.randn(3, 4).double(), torch.randn(3).double()
    inputs = [x, weight.requires_grad_(), bias.requires_grad_()]
    _same(slim.FixedPointProduct.apply, functional.linear, inputs)


def test_softmax_product_errs_by_its_eight_bits():
    scores, value = _grid(2, 2, 5, 5, step=0.25), _grid(2, 2, 5, 4, step=1 / 16)
    _same(
        slim.SoftmaxValueProduct.apply, lambda s, v: torch.softmax(s, -1) @ v, [scores, value], atol=5 * 3 / 512, rtol=0
    )


def test_a_frozen_norm_with_everything_kept_is_a_layer_norm():
    x, bias = torch.randn(4, 3, 8).double().requires_grad_(), torch.randn(8).double().requires_grad_()
    weight = torch.rand(8).double()
    _same(
        lambda x, b: slim.PrunedNorm.apply(x, weight, b, 1e-5, 1.0),
        lambda x, b: functional.layer_norm(x, (8,), weight, b, 1e-5),
        [x, bias],
    )


def test_codes_clip_round_and_pack():
    values = torch.tensor([-9.0, -8.0, 0.03, 0.04, 7.9375, 9.0])
    assert slim.to_fixed(values).tolist() == [-128, -128, 0, 1, 127, 127]
    assert slim.to_unsigned(torch.tensor([0.0, 0.5, 1.0])).tolist() == [0, 128, 255]
    odd = torch.tensor([-9.0, -4.0, -0.5, 0.0, 0.3, 3.5, 9.0])
    packed = slim.pack_four(odd)
    assert packed.numel() == 4 and packed.dtype == torch.uint8
    assert slim.unpack_four(packed, odd.shape, odd.dtype).tolist() == [-4.0, -4.0, -0.5, 0.0, 0.5, 3.5, 3.5]


@pytest.mark.parametrize(("kind", "count"), [("bert", 4 + 8 * 12 + 2), ("vit", 3 + 8 * 12 + 1)])
def test_published_number_of_tensors(kind, count):
    assert len(units(_model(kind, layers=12, device="meta"))) == count


@pytest.mark.parametrize("kind", ["bert", "vit"])
def test_bytes_by_token_are_what_the_meter_sees_saved(kind):
    """One more layer saves `static` bytes a token with every matrix frozen, and `plain` bytes without SlimFit."""
    batch, length = 4, 20 if kind == "bert" else 17
    slimmed, plain = [], []
    for layers in (2, 3):
        model = _model(kind, layers, "meta")
        plain.append(measure_memory(model, MemoryOptions(batch=batch, length=length))["saved_bytes"])
        method = _method(rate=0.5)
        method.prepare(model, Context())
        for parameter in units(model).values():
            parameter.requires_grad_(False)
        slimmed.append(measure_memory(model, MemoryOptions(batch=batch, length=length))["saved_bytes"])
    cost, tokens = method.cost(model, length=length), batch * length
    assert plain[1] - plain[0] == cost["plain"] * tokens
    # The whole-tensor share of kept values is rounded down: at most one value and index for each of two norms.
    assert 0 <= cost["static"]["total"] * tokens - (slimmed[1] - slimmed[0]) <= 16


def test_states_of_frozen_tensors_are_counted_when_asked():
    model = _model(device="meta")
    total = sum(p.numel() for p in model.parameters())
    _method(rate=0.9).prepare(model, Context())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    some, every = (
        measure_memory(model, MemoryOptions(batch=2, length=8, all_states=flag))["by_category"]["optimizer"]
        for flag in (False, True)
    )
    assert every - some >= 8 * (total - trained)
    assert model.base_model.embeddings.word_embeddings.weight.grad is None
    with pytest.raises(ValueError, match="all_states"):
        MemoryOptions(all_states=True, optimizer="galore", rank=4)


@pytest.mark.parametrize("full_copy", [True, False])
def test_schedule_trains_all_once_then_what_moved_most(full_copy):
    set_seed(0)
    model, method = _model(hidden_dropout_prob=0.0), _method(rate=0.75, full_copy=full_copy)
    context = Context(learning_rate=1e-2)
    method.prepare(model, context)
    optimizer = method.optimizer(model, context)
    ids = torch.randint(0, 64, (4, 6))
    tensors = units(model)
    scores, visited, counts = getattr(model, STATE).scores.tolist(), set(), [0] * len(tensors)
    frozen_count = math.floor(0.75 * len(tensors))
    for _ in range(6):
        method.on_step_begin(model, context)
        order = sorted(range(len(scores)), key=lambda i: scores[i])
        active = set(order[frozen_count:])
        assert {i for i, p in enumerate(tensors.values()) if p.requires_grad} == active
        model(input_ids=ids, labels=torch.tensor([0, 1, 0, 1])).loss.backward()
        assert all(p.grad is None for i, p in enumerate(tensors.values()) if i not in active)
        before = [p.detach().clone() for p in tensors.values()]
        method.on_gradients(model, context)
        optimizer.step()
        optimizer.zero_grad()
        method.on_step_end(model, context)
        for i, (old, new) in enumerate(zip(before, tensors.values(), strict=True)):
            if i in active:
                known = old != 0
                scores[i] = float(((old - new.detach())[known] / old[known]).abs().mean())
            else:
                assert torch.equal(old, new)
        torch.testing.assert_close(getattr(model, STATE).scores, torch.tensor(scores), rtol=1e-4, atol=1e-6)
        visited |= active
        counts = [count + (i in active) for i, count in enumerate(counts)]
    assert visited == set(range(len(tensors)))
    # the history gets, by layer and tensor, the score and the number of steps in which it was trained
    places = [".".join(place_in_layers(model, name)) for name in tensors]
    assert {"0.attention-query", "1.output", "other.classifier"} <= set(places) and len(set(places)) == len(places)
    assert [context.recorded[f"trained.{place}"] for place in places] == counts
    assert [context.recorded[f"moved.{place}"] for place in places] == pytest.approx(scores, rel=2e-3)
    assert math.isinf(distance(torch.zeros(3), torch.ones(3)))


def test_only_the_weights_that_a_step_trains_are_copied():
    model, method = _model(), _method(rate=0.75)
    method.prepare(model, Context())
    state, tensors = getattr(model, STATE), units(model)
    copies = [getattr(state, f"copy_{i}") for i in range(len(tensors))]
    for copy in copies:
        copy.fill_(7.0)
    method.on_gradients(model, Context())
    for copy, parameter in zip(copies, tensors.values(), strict=True):
        assert torch.equal(copy, parameter if parameter.requires_grad else torch.full_like(copy, 7.0))


def test_forward_is_exact_and_finalize_gives_the_plain_model_back():
    model = _model().eval()
    ids = torch.randint(0, 64, (3, 7))
    mask = torch.ones_like(ids)
    mask[0, 4:] = 0
    with torch.no_grad():
        plain = model(input_ids=ids, attention_mask=mask).logits
    names = list(model.state_dict())
    kinds = [type(m) for m in model.modules()]
    method = _method(rate=0.5)
    method.prepare(model, Context())
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=ids, attention_mask=mask).logits, plain)
    model = method.finalize(model)
    assert list(model.state_dict()) == names and [type(m) for m in model.modules()] == kinds
    assert any(isinstance(m, nn.LayerNorm) and not isinstance(m, slim.SlimNorm) for m in model.modules())


def test_unknown_architectures_and_activations_are_refused():
    with pytest.raises(ConfigError, match="GELU"):
        _method().prepare(_model(hidden_act="relu"), Context())
    t5 = ModelEntry(title="t5", architecture="t5", config={"d_model": 8, "d_kv": 2, "num_heads": 4, "vocab_size": 9})
    with pytest.raises(ConfigError, match="architecture 't5' is not supported"):
        _method().prepare(models.build(t5, head="text2text", device="meta"), Context())


def test_the_optimizer_has_the_configured_epsilon():
    for options, expected in (({}, 1e-8), ({"epsilon": 1e-6}, 1e-6)):
        optimizer = _method(**options).optimizer(_model(), Context(learning_rate=1e-3))
        assert {group["eps"] for group in optimizer.param_groups} == {expected}
