"""FacT, KAdaptation and NOAH's modules against their formulas matrix by matrix, and what a first step moves."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification

from replica.errors import ConfigError
from replica.methods import Context, parse
from replica.methods.peft.fact import method as fact
from replica.methods.peft.kadaptation import method as kadaptation
from replica.models import body, encoder_layers
from replica.models.sublayers import query_value

WIDTH, INNER = 16, 64


def vit() -> ViTForImageClassification:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(2)
        config = ViTConfig(
            image_size=8,
            patch_size=4,
            num_channels=1,
            hidden_size=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=INNER,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            num_labels=2,
            initializer_range=0.2,
        )
        return ViTForImageClassification(config).eval()


def pixels(rows: int = 5) -> torch.Tensor:
    return torch.randn(rows, 1, 8, 8, generator=torch.Generator().manual_seed(3))


def prepared(reference: dict, model=None):
    entry, config = parse(reference)
    method, model = entry.create(config), model or vit()
    method.prepare(model, Context(seed=4, head="image"))
    return model, method


def randomise(module: torch.nn.Module, std: float = 0.3) -> None:
    seeds = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=seeds) * std)


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(pixel_values=pixels()).logits


def train(model, steps: int = 3) -> None:
    model.train()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    for _ in range(steps):
        model(pixel_values=pixels(), labels=torch.tensor([0, 1, 0, 1, 1])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


REFERENCES = [
    {"name": "fact", "rank": 3, "scale": 2.0},
    {"name": "fact", "rank": 3, "form": "tucker"},
    {"name": "kadaptation", "n": 4, "scale": 8.0},
]


@pytest.mark.parametrize("reference", REFERENCES, ids=str)
def test_starts_as_the_pretrained_model_and_merges_into_what_it_computes(reference):
    plain = vit()
    model, method = prepared(reference)
    torch.testing.assert_close(logits(model), logits(plain))
    for name, module in model.named_modules():
        if name.endswith((fact.NAME, kadaptation.NAME)):
            randomise(module)
    moved = logits(model)
    assert (moved - logits(plain)).abs().max() > 1e-2
    merged = method.finalize(model).eval()
    torch.testing.assert_close(logits(merged), moved, rtol=1e-3, atol=1e-4)
    assert {name for name, _ in merged.named_parameters()} == {name for name, _ in plain.named_parameters()}


@pytest.mark.parametrize("reference", REFERENCES, ids=str)
def test_every_factor_moves_within_three_steps(reference):
    model, _ = prepared(reference)
    before = {
        name: parameter.detach().clone() for name, parameter in model.named_parameters() if parameter.requires_grad
    }
    train(model)
    still = [
        name for name, parameter in model.named_parameters() if name in before and torch.equal(parameter, before[name])
    ]
    assert not still


@pytest.mark.parametrize("form", ["tensor-train", "tucker"])
def test_fact_changes_each_block_of_each_weight_by_its_own_core(form):
    model, method = prepared({"name": "fact", "form": form, "rank": 3, "scale": 0.5})
    factors = body(model).fact
    randomise(factors)
    before = copy.deepcopy(model)
    method.finalize(model)
    number = 0
    for old, new in zip(encoder_layers(before), encoder_layers(model), strict=True):
        for (_, first), (_, second) in zip(old.named_modules(), new.named_modules(), strict=True):
            if not isinstance(first, torch.nn.Linear):
                continue
            change = (second.weight - first.weight).detach()
            for row in range(change.shape[0] // WIDTH):
                for column in range(change.shape[1] // WIDTH):
                    if form == "tucker":
                        core = sum(factors.core[:, :, k] * factors.columns[k, number] for k in range(3))
                        core = core.t() if change.shape[1] > WIDTH else core
                    else:
                        core = factors.cores[number]
                    wanted = 0.5 * (factors.u @ core @ factors.v).t()
                    block = change[row * WIDTH :, column * WIDTH :][:WIDTH, :WIDTH]
                    torch.testing.assert_close(block, wanted.detach(), rtol=1e-3, atol=1e-5)
                    number += 1
    assert number == 2 * 12


def test_fact_may_slice_its_mixed_tensor_as_the_released_code_does():
    """The released slices: the mixed tensor of a layer of four matrices, (r, r, 4), read as (r, 4 r); its transpose on the way back."""
    plain, _ = prepared({"name": "fact", "form": "tucker", "rank": 3})
    model, method = prepared({"name": "fact", "form": "tucker", "rank": 3, "released_slices": True})
    factors = body(model).fact
    randomise(factors)
    body(plain).fact.load_state_dict(factors.state_dict())
    x = torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for _, place in method._layers(model):
            count = place.outputs * place.inputs
            matrix = (factors.core @ factors.columns[:, place.start : place.stop]).reshape(3, 3 * count)
            wide = x.repeat(1, 1, place.inputs) * torch.arange(1, place.inputs * WIDTH + 1)
            if place.inputs == 1:
                wanted = (((wide @ factors.u) @ matrix).reshape(2, 5, count, 3) @ factors.v).reshape(2, 5, -1)
            else:
                wanted = ((wide.reshape(2, 5, count, WIDTH) @ factors.u).reshape(2, 5, -1) @ matrix.t()) @ factors.v
            torch.testing.assert_close(factors(wide, place), wanted, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(wide @ factors.increment(place).t(), wanted, rtol=1e-4, atol=1e-3)
            same = torch.allclose(body(plain).fact(wide, place), wanted, rtol=1e-4, atol=1e-3)
            assert same == (count == 1), "one matrix is sliced alike, four are not"


def test_fact_refuses_layers_that_its_matrices_do_not_fill():
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, image_size=8, patch_size=4
    )
    with torch.device("meta"), pytest.raises(ConfigError, match="24 x 16"):
        prepared({"name": "fact"}, ViTForImageClassification(config))


def test_kadaptation_adds_a_sum_of_kronecker_products_of_rank_one_matrices():
    model, method = prepared({"name": "kadaptation", "n": 4, "scale": 2.0})
    before = copy.deepcopy(model)
    for module in (body(model).kronecker, *(layer.kronecker for layer in encoder_layers(model))):
        randomise(module)
    shared, owned = body(model).kronecker, [layer.kronecker for layer in encoder_layers(model)]
    method.finalize(model)
    for own, (_, *old), (_, *new) in zip(owned, query_value(before), query_value(model), strict=True):
        for part, first, second in zip(("query", "value"), old, new, strict=True):
            a = [torch.outer(getattr(shared, f"{part}_left")[i], getattr(shared, f"{part}_right")[i]) for i in range(4)]
            b = [torch.outer(getattr(own, f"{part}_left")[i], getattr(own, f"{part}_right")[i]) for i in range(4)]
            h = sum(torch.kron(a[i], b[i]) for i in range(4))
            torch.testing.assert_close(
                (second.weight - first.weight).detach(), 2.0 * h.t().detach(), rtol=1e-3, atol=1e-5
            )
            torch.testing.assert_close((second.bias - first.bias).detach(), own.bias.detach(), rtol=1e-3, atol=1e-5)
    keys = [layer.attention.k_proj.weight for layer in encoder_layers(model)]
    assert all(
        torch.equal(k, layer.attention.k_proj.weight) for k, layer in zip(keys, encoder_layers(before), strict=True)
    )


def test_kadaptation_started_as_the_released_code_never_leaves_zero():
    model, _ = prepared({"name": "kadaptation", "n": 4, "scale": 8.0, "both_zero": True})
    start = {name: p.detach().clone() for name, p in model.named_parameters() if ".kronecker." in f".{name}"}
    train(model)
    moved = {name for name, p in model.named_parameters() if name in start and not torch.equal(p, start[name])}
    assert moved == {name for name in start if name.endswith("bias")}
    shared = body(model).kronecker
    for layer in encoder_layers(model):
        for part in ("query", "value"):
            left, right = kadaptation.factors(shared, layer.kronecker, part)
            assert not (left.t() @ right).any()


def test_kadaptation_drops_entries_of_the_update_only_while_training():
    model, _ = prepared({"name": "kadaptation", "n": 4, "scale": 8.0, "dropout": 0.9})
    for module in (body(model).kronecker, *(layer.kronecker for layer in encoder_layers(model))):
        randomise(module)
    assert torch.equal(logits(model), logits(model))
    model.train()
    assert not torch.equal(logits(model), logits(model))


def test_noah_prompts_are_exchanged_at_each_layer_and_gone_at_the_end():
    sizes = {"prompts": [3, 1], "lora": [2, 0], "adapters": [0, 2]}
    model, _ = prepared({"name": "noah-subnet", **sizes})
    seen = []
    for layer in encoder_layers(model):
        layer.layernorm_before.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        hidden = body(model)(pixel_values=pixels()).last_hidden_state
    assert [x.shape[1] for x in seen] == [5 + 3, 5 + 1] and hidden.shape[1] == 5  # 4 patches and the class token
    for x, layer in zip(seen, encoder_layers(model), strict=True):
        torch.testing.assert_close(x[0, 5:], layer.noah.prompts.detach())


@pytest.mark.parametrize("prompts", [[3, 0], [0, 2]])
def test_noah_prompts_stay_through_a_layer_without_any(prompts):
    model, _ = prepared({"name": "noah-subnet", "prompts": prompts, "lora": [0, 0], "adapters": [0, 0]})
    seen = []
    for layer in encoder_layers(model):
        layer.layernorm_before.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        hidden = body(model)(pixel_values=pixels()).last_hidden_state
        first = encoder_layers(model)[0]
    assert [x.shape[1] - 5 for x in seen] == [prompts[0], max(prompts)] and hidden.shape[1] == 5
    if prompts[
        0
    ]:  # the second layer reads the first one's outputs at the prompts, by hand a pass of both without hooks
        by_hand = encoder_layers(vit())[0](seen[0])
        torch.testing.assert_close(seen[1], by_hand)
        torch.testing.assert_close(seen[0][0, 5:], first.noah.prompts.detach())


def test_noah_without_prompts_is_lora_on_three_projections_and_an_adapter_after_the_mlp():
    model, _ = prepared({"name": "noah-subnet", "prompts": [0, 0], "lora": [2, 0], "adapters": [0, 3]})
    first, second = (layer.noah for layer in encoder_layers(model))
    randomise(first)
    by_hand = vit()
    change = (first.lora_b @ first.lora_a).detach()
    attention = encoder_layers(by_hand)[0].attention
    with torch.no_grad():
        for part, linear in enumerate((attention.q_proj, attention.k_proj, attention.v_proj)):
            linear.weight += change[part * WIDTH : (part + 1) * WIDTH]
    encoder_layers(by_hand)[1].mlp.register_forward_hook(
        lambda _, __, x: x + second.up(second.down(x) * torch.sigmoid(1.702 * second.down(x)))
    )
    torch.testing.assert_close(logits(model), logits(by_hand), rtol=1e-4, atol=1e-5)


def test_noah_needs_a_size_for_each_layer_of_a_vision_transformer():
    with pytest.raises(ConfigError, match="2 sizes"):
        prepared({"name": "noah-subnet", "prompts": [1], "lora": [1, 1], "adapters": [1, 1]})


def test_adapter_with_a_norm_reads_the_normed_output_and_adds_to_the_plain_one():
    from replica.methods.peft.layers import Adapter, FullLinear

    torch.manual_seed(0)
    adapter = Adapter(FullLinear(8, 2, 0.5), FullLinear(2, 8, 0.5), "relu", torch.nn.LayerNorm(8))
    x = torch.randn(3, 8)
    normed = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    inner = (normed @ adapter.down.weight.T + adapter.down.bias).clamp(min=0)
    torch.testing.assert_close(adapter(x), x + inner @ adapter.up.weight.T + adapter.up.bias)
