"""Ladder side-tuning on BART and on models that see images: counts and equations by hand, who reads regions, the pruned start."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers.models.t5.modeling_t5 import T5LayerNorm

from replica import models
from replica.config.asset_schema import ModelEntry
from replica.errors import ConfigError
from replica.methods import Context, parse
from replica.methods.peft.ladder_side_tuning.side_network import fisher, stacks_of

from .test_clip_t5 import IMAGES, PROJECT, PROJECTION
from .test_clip_t5 import TINY as T5
from .test_clip_t5 import batch as seen
from .test_peft_vision_language import TINY as BART

SIZES = {"bart": BART, "clip-bart": {**BART, **IMAGES}, "clip-t5": {**T5, **IMAGES}}
KINDS = list(SIZES)
LADDER = {"name": "ladder-side-tuning", "reduction": 2, "start": "random"}


def tiny(kind: str) -> Any:
    more = {} if kind == "clip-t5" else {"forced_eos_token_id": None}
    return models.build(ModelEntry(title="", architecture=kind, config={**SIZES[kind], **more}), head="text2text")


def batch(kind: str) -> dict[str, torch.Tensor]:
    return {key: value for key, value in seen().items() if kind != "bart" or key not in ("pixel_values", "image_mask")}


def context(kind: str) -> Context:
    rows = batch(kind)
    take = lambda places: {key: value[list(places)] for key, value in rows.items()}  # noqa: E731
    return Context(seed=0, head="text2text", rows=3, batch_size=3, rows_at=take)


def prepared(kind: str, **more: Any) -> tuple[Any, Any]:
    also = {} if kind == "bart" else {"also": ["*.visual.*"]}
    entry, config = parse({**LADDER, **also, **more})
    model, method = tiny(kind), entry.create(config)
    method.prepare(model, context(kind))
    return model, method


def inner(model: Any) -> Any:
    return model.model if hasattr(model, "model") else model


@pytest.mark.parametrize(
    ("name", "reduction", "own", "besides"),
    [
        # BART base: 6 + 6 layers, s = 96: an attention 4 (s^2 + s), a feed-forward 2 s f + f + s with f = 384, norms of 2 s
        ("bart-base", 8, (18 * 4 * (96 * 96 + 96) + 12 * (2 * 96 * 384 + 384 + 96) + 30 * 2 * 96, 96, 0, 12), 0),
        # T5 base: 12 + 12 layers, s = 192: an attention 4 s^2, a feed-forward 2 s f with f = 768, norms of s; a table of 32 x 12 a stack
        (
            "clip-t5-base",
            4,
            (36 * 4 * 192 * 192 + 24 * 2 * 192 * 768 + 60 * 192, 192, 2 * (32 * 12 + 192), 24),
            PROJECTION,
        ),
    ],
    ids=["bart", "clip-t5"],
)
def test_counts_of_base_models_are_those_of_the_sums(name, reduction, own, besides):
    blocks, s, stacks, depth = own
    entry, config = parse(
        {"name": "ladder-side-tuning", "reduction": reduction, "also": ["*.visual.*"] if besides else []}
    )
    model, method = models.build(PROJECT.model(name), head="text2text", device="meta"), entry.create(config)
    method.prepare(model, Context(head="text2text"))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == blocks + stacks + (depth + 2) * (768 * s + s) + depth + s * 768 + 768 + besides
    assert method.expected(model)["trainable_parameters"] == trained


@pytest.mark.parametrize("kind", KINDS)
def test_expected_counts_what_is_trained(kind):
    for layers in ([], [1]):
        model, method = prepared(kind, layers=layers)
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        assert method.expected(model)["trainable_parameters"] == trained


def _ends(model: Any, inputs: dict[str, torch.Tensor], start: torch.Tensor) -> dict[str, list[torch.Tensor]]:
    """The outputs of a plain model's layers, and the inputs of its first, on words alone."""
    found: dict[str, list[torch.Tensor]] = {"first encoder": [], "first decoder": [], "encoder": [], "decoder": []}
    for name in ("encoder", "decoder"):
        stack = getattr(inner(model), name)
        layers = stack.block if hasattr(stack, "block") else stack.layers
        layers[0].register_forward_pre_hook(lambda _m, args, name=name: found[f"first {name}"].append(args[0]))
        for layer in layers:
            take = lambda _m, _i, out, name=name: found[name].append(out[0] if isinstance(out, tuple) else out)  # noqa: E731
            layer.register_forward_hook(take)
    model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], decoder_input_ids=start)
    return found


def _climb(side: nn.Module, first: torch.Tensor, taps: list[torch.Tensor], seen: torch.Tensor, **memory: Any) -> Any:
    """The ladder's equations with zeros for the backbone at regions, and T5's biases among words alone."""
    lowest = torch.finfo(torch.float32).min
    given = {"attention_mask": (1 - seen.float()) * lowest}
    if memory:
        given["encoder_hidden_states"] = memory["states"]
        given["encoder_attention_mask"] = (1 - memory["mask"].float())[:, None, None] * lowest
    words, length = taps[0].shape[1], first.shape[1]
    if hasattr(side.blocks[0].block, "layer"):
        bias = torch.zeros(1, 4, length, length)
        bias[..., :words, :words] = side.blocks[0].block.layer[0].SelfAttention.compute_bias(words, words)
        given["position_bias"] = bias
    hidden = first @ side.first.weight.T + side.first.bias
    for index, rung in zip(side.rungs, side.blocks, strict=True):
        mu = 1 / (1 + torch.exp(-side.gates[index] / 0.1))
        down = taps[index] @ rung.down.weight.T + rung.down.bias
        hidden = mu * hidden + torch.cat([(1 - mu) * down, torch.zeros(3, length - words, down.shape[2])], 1)
        output = rung.block(hidden, **given)
        hidden = output[0] if isinstance(output, tuple) else output
    return hidden if side.norm is None else side.norm(hidden)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layers", [[0, 1], [1]])
def test_the_equations_by_hand(kind, layers):
    plain = tiny(kind)
    model, _ = prepared(kind, layers=layers)
    inputs = batch(kind)
    start = model.prepare_decoder_input_ids_from_labels(inputs["labels"])
    with torch.no_grad():
        for stack, _ in stacks_of(model):
            stack.ladder.gates.copy_(torch.tensor([0.05, -0.1]))
        ends = _ends(plain, inputs, start)
        first, mask = ends["first encoder"][0], inputs["attention_mask"]
        if kind != "bart":
            encoder = inner(plain).encoder
            regions = encoder.visual(encoder.vision(inputs["pixel_values"]), None, encoder.embed_tokens)
            first = torch.cat([first, regions], 1)
            mask = torch.cat([mask, inputs["image_mask"].repeat_interleave(4, 1)], 1)
        parts = inner(model)
        memory = _climb(parts.encoder.ladder, first, ends["encoder"], mask[:, None, None])
        causal = torch.ones(5, 5).tril()[None, None]
        states = _climb(
            parts.decoder.ladder, ends["first decoder"][0], ends["decoder"], causal, states=memory, mask=mask
        )
        read = states @ parts.decoder.ladder.up.weight.T + parts.decoder.ladder.up.bias
        by_hand = read @ parts.shared.weight.T * (16**-0.5 if kind == "clip-t5" else 1)
        torch.testing.assert_close(model(**inputs).logits, by_hand, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_backbone_runs_without_a_graph_and_on_words_alone(kind):
    model, _ = prepared(kind, layers=[1])
    states = []
    for _, layers in stacks_of(model):
        for layer in layers:
            layer.register_forward_hook(lambda _m, _i, out: states.append(out[0] if isinstance(out, tuple) else out))
    model.train()
    model(**batch(kind)).loss.backward()
    assert [tuple(s.shape[:2]) for s in states] == [(3, 7)] * 2 + [(3, 5)] * 2
    assert all(s.grad_fn is None and not s.requires_grad for s in states)
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad == ("ladder" in name or "visual" in name), name
    for stack, _ in stacks_of(model):
        assert stack.ladder.gates.grad[0] == 0 != stack.ladder.gates.grad[1]


@pytest.mark.parametrize("kind", ["clip-bart", "clip-t5"])
def test_the_gradient_is_that_of_differences(kind, monkeypatch):
    """Along a random direction in all that is trained, the projection of images included, in double precision."""
    whole = lambda norm, x: norm.weight * x * torch.rsqrt((x**2).mean(-1, keepdim=True) + norm.variance_epsilon)  # noqa: E731
    monkeypatch.setattr(T5LayerNorm, "forward", whole)  # T5's own rounds to single precision
    model, _ = prepared(kind)
    model.double()
    given = {key: value.double() if value.is_floating_point() else value for key, value in batch(kind).items()}
    model(**given).loss.backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    seeds = torch.Generator().manual_seed(0)
    along = [torch.randn(p.shape, generator=seeds, dtype=torch.float64) for p in trained]
    slope = sum((p.grad * way).sum() for p, way in zip(trained, along, strict=True))
    losses = []
    with torch.no_grad():
        for step in (1e-6, -2e-6):
            for parameter, way in zip(trained, along, strict=True):
                parameter.add_(step * way)
            losses.append(model(**given).loss)
    torch.testing.assert_close(slope, (losses[0] - losses[1]) / 2e-6, rtol=1e-5, atol=1e-8)
    assert all(p.grad.abs().sum() > 0 for name, p in model.named_parameters() if "visual.feature.0" in name)


@pytest.mark.parametrize("kind", ["clip-bart", "clip-t5"])
def test_the_side_network_sees_the_images_that_are_there(kind):
    model, _ = prepared(kind)
    given = batch(kind)
    first = model(**given).logits
    changed = given["pixel_values"].clone()
    changed[1, 1] += 1
    torch.testing.assert_close(model(**{**given, "pixel_values": changed}).logits, first)
    changed[2, 1] += 1
    assert not torch.allclose(model(**{**given, "pixel_values": changed}).logits[2], first[2])


@pytest.mark.parametrize("kind", KINDS)
def test_generates_greedily_and_refuses_what_it_cannot_keep(kind):
    model, _ = prepared(kind)
    given = {key: value for key, value in batch(kind).items() if key != "labels"}
    settings = {"max_new_tokens": 3, "do_sample": False, "eos_token_id": None}
    made = model.generate(**given, **settings, num_beams=1)
    assert made.shape == (3, 4)
    with torch.no_grad():
        assert torch.equal(model(**given, decoder_input_ids=made[:, :-1]).logits.argmax(-1), made[:, 1:])
    for row in range(3):
        alone = {key: value[row : row + 1] for key, value in given.items()}
        assert torch.equal(model.generate(**alone, **settings, num_beams=1)[0], made[row])
    with pytest.raises(ConfigError, match="use_cache=False"):
        model.generate(**given, **settings, use_cache=True)
    with pytest.raises(ConfigError, match="num_beams=1"):
        model.generate(**given, **settings, num_beams=2)


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_trained_is_restored(kind):
    model, method = prepared(kind)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
    again = tiny(kind)
    method.restore(again)
    again.load_state_dict(model.state_dict())
    given = batch(kind)
    with torch.no_grad():
        assert torch.equal(again.eval()(**given).logits, model.eval()(**given).logits)


@pytest.mark.parametrize("kind", KINDS)
def test_fisher_is_the_sum_of_squared_gradients_of_single_examples(kind):
    """Of their words alone, which are what the backbone reads."""
    model, rows = tiny(kind), {key: value for key, value in batch(kind).items() if key in batch("bart")}
    importance = fisher(model, context(kind), 1024)
    part = inner(model).decoder
    layer = part.block[0].layer[1].EncDecAttention.k if kind == "clip-t5" else part.layers[0].encoder_attn.k_proj
    total = torch.zeros_like(layer.weight)
    for index in range(3):
        model.zero_grad()
        model(**{key: value[index : index + 1] for key, value in rows.items()}).loss.backward()
        total += layer.weight.grad**2
    torch.testing.assert_close(importance(layer), total, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("start", ["magnitude", "fisher"])
@pytest.mark.parametrize("within_heads", [True, False])
def test_bart_starts_as_a_pruning_of_its_blocks(start, within_heads):
    """The walk through encoder and decoder by hand, layer after layer."""
    plain = tiny("bart")
    importance = fisher(plain, context("bart"), 1024) if start == "fisher" else lambda m: m.weight.detach() ** 2
    model, _ = prepared("bart", start=start, within_heads=within_heads, layers=[1])

    def most(score: torch.Tensor, count: int) -> list[int]:
        return sorted(score.argsort(descending=True, stable=True)[:count].tolist())

    def narrow(module: nn.Module, rows: list[int], columns: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        return module.weight[rows][:, columns], module.bias[rows]

    memory: list[int] = []
    for stack in ("encoder", "decoder"):
        source = getattr(plain.model, stack).layers
        target = getattr(model.model, stack).ladder.blocks[0].block
        kept = most(importance(plain.model.shared).sum(0), 8)
        for index, layer in enumerate(source):
            expected = {}
            for name in ("self_attn", "encoder_attn") if stack == "decoder" else ("self_attn",):
                attention = getattr(layer, name)
                columns = {"q": kept, "k": memory if name == "encoder_attn" else kept}
                columns["v"] = columns["k"]
                parts = [importance(getattr(attention, f"{key}_proj"))[:, columns[key]] for key in "qkv"]
                score = (parts[0] * parts[1] * parts[2]).sum(1)
                rows = most(score, 8)
                if within_heads:
                    rows = [8 * head + row for head in range(2) for row in most(score[8 * head : 8 * head + 8], 4)]
                for key in "qkv":
                    expected[f"{name}.{key}_proj"] = narrow(getattr(attention, f"{key}_proj"), rows, columns[key])
                kept = most(importance(attention.out_proj)[:, rows].sum(1), 8)
                expected[f"{name}.out_proj"] = narrow(attention.out_proj, kept, rows)
                norm = getattr(layer, f"{name}_layer_norm")
                expected[f"{name}_layer_norm"] = norm.weight[kept], norm.bias[kept]
            rows = most(importance(layer.fc1)[:, kept].sum(1), 16)
            expected["fc1"] = narrow(layer.fc1, rows, kept)
            kept = most(importance(layer.fc2)[:, rows].sum(1), 8)
            expected["fc2"] = narrow(layer.fc2, kept, rows)
            expected["final_layer_norm"] = layer.final_layer_norm.weight[kept], layer.final_layer_norm.bias[kept]
            if index == 1:
                for name, (weight, bias) in expected.items():
                    found = target.get_submodule(name)
                    assert torch.equal(found.weight, weight) and torch.equal(found.bias, bias), (stack, name)
                assert {name.rpartition(".")[0] for name, _ in target.named_parameters()} == set(expected)
        memory = kept


def test_heads_of_either_stack_must_divide_the_narrow_width():
    config = {**BART, "encoder_attention_heads": 2, "decoder_attention_heads": 8}
    model = models.build(ModelEntry(title="", architecture="bart", config=config), head="text2text", device="meta")
    entry, values = parse({**LADDER, "reduction": 4})
    with pytest.raises(ConfigError, match="width 4 for 8 heads"):
        entry.create(values).prepare(model, Context(head="text2text"))
