"""LoRA against its formula, prompts and prefixes, and training in a random subspace."""

from __future__ import annotations

import pytest
import torch

from replica.errors import ConfigError
from replica.methods import Context, parse
from tests.methods.peft_models import batch, context, prepared, tiny, train


def trainable(model) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_lora_adds_alpha_over_r_times_b_a_and_merges_it():
    model, method = prepared({"name": "lora", "rank": 3, "alpha": 12}, "bert")
    train(model, "bert", 3, 1e-2)
    wrapped = model.bert.encoder.layer[1].attention.self.query
    w, a, b = wrapped.base_layer.weight, wrapped.lora_A["default"].weight, wrapped.lora_B["default"].weight
    assert torch.equal(w, tiny("bert").bert.encoder.layer[1].attention.self.query.weight)
    assert b.abs().max() > 0
    wanted = (w + 12 / 3 * b @ a).detach()
    x = torch.randn(4, 32)
    torch.testing.assert_close(wrapped(x), x @ wanted.T + wrapped.base_layer.bias)
    before = model(**batch("bert")).logits
    merged = method.finalize(model)
    torch.testing.assert_close(merged.bert.encoder.layer[1].attention.self.query.weight, wanted)
    torch.testing.assert_close(merged(**batch("bert")).logits, before, rtol=1e-4, atol=1e-5)
    assert set(merged.state_dict()) == set(tiny("bert").state_dict())


def test_loras_of_gpt2_are_of_queries_and_values_alone_and_fused_again():
    model, method = prepared({"name": "lora", "rank": 3, "alpha": 12}, "gpt2")
    assert trainable(model) == 2 * 2 * 3 * (32 + 32)  # two layers, two projections, two factors
    train(model, "gpt2", 3, 1e-2)
    parts = model.transformer.h[1].attn.c_attn
    added = torch.cat(
        [
            4 * (parts.query.lora_B["default"].weight @ parts.query.lora_A["default"].weight).T,
            torch.zeros(32, 32),
            4 * (parts.value.lora_B["default"].weight @ parts.value.lora_A["default"].weight).T,
        ],
        1,
    ).detach()
    before = model(**batch("gpt2")).logits
    merged, origin = method.finalize(model), tiny("gpt2")
    assert set(merged.state_dict()) == set(origin.state_dict())
    start = origin.transformer.h[1].attn.c_attn.weight
    torch.testing.assert_close(merged.transformer.h[1].attn.c_attn.weight, start + added)
    torch.testing.assert_close(merged(**batch("gpt2")).logits, before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["bert", "roberta", "t5", "gpt2"])
def test_lora_starts_as_the_model_itself_and_trains_only_its_factors_and_a_new_head(kind):
    model, method = prepared({"name": "lora", "rank": 2}, kind)
    with torch.no_grad():
        torch.testing.assert_close(model(**batch(kind)).logits, tiny(kind)(**batch(kind)).logits)
    assert method.expected(model)["trainable_parameters"] == trainable(model)
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (".lora_" in name or name.startswith("classifier.")), name
    assert method.expected(method.finalize(model)) == method.expected(tiny(kind))


def test_lora_names_the_layers_there_are_when_none_fits():
    with pytest.raises(ConfigError, match="did you mean 'query'"):
        prepared({"name": "lora", "targets": ["querry"]}, "bert")


@pytest.mark.parametrize("kind", ["bert", "t5"])
@pytest.mark.parametrize(
    "reference",
    [
        {"name": "lora", "rank": 2},
        {"name": "prompt-tuning", "tokens": 5},
        {"name": "prefix-tuning", "tokens": 5},
        {"name": "intrinsic-said", "dimension": 200},
    ],
    ids=lambda r: r["name"],
)
def test_a_few_steps_lower_the_loss_and_leave_the_rest_as_it_was(reference, kind):
    if (reference["name"], kind) == ("prefix-tuning", "t5"):
        with pytest.raises(ConfigError, match="not supported"):
            prepared(reference, kind)
        return
    model, method = prepared(reference, kind)
    frozen = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    assert method.expected(model)["trainable_parameters"] == trainable(model)
    prompt = reference["name"] == "prompt-tuning"  # a few embeddings before a random frozen model change little
    losses = train(model, kind, 15, 0.3 if prompt else 3e-2)
    assert losses[-1] < (0.99 if prompt else 0.97) * losses[0]
    after = dict(model.named_parameters())
    assert all(torch.equal(value, after[name]) for name, value in frozen.items())
    with torch.no_grad():
        before = model(**batch(kind)).logits
        final = method.finalize(model)
        torch.testing.assert_close(final(**batch(kind)).logits, before, rtol=1e-3, atol=1e-4)


def test_subspace_moves_every_tensor_by_its_layers_scale_times_the_projection():
    model, method = prepared({"name": "intrinsic-said", "dimension": 103, "head": False}, "bert", seed=4)
    assert trainable(model) == 103
    assert method.expected(model) == {"trainable_parameters": 103}
    subspace = model.base_model.intrinsic_subspace
    assert subspace.scales.shape == (3,)
    with torch.no_grad():
        torch.testing.assert_close(model(**batch("bert")).logits, tiny("bert")(**batch("bert")).logits)
        subspace.coordinates.normal_(generator=torch.Generator().manual_seed(1))
        subspace.scales.copy_(torch.tensor([1.0, 0.0, 2.0]))
        moved = model(**batch("bert")).logits
        final = method.finalize(model)
        torch.testing.assert_close(final(**batch("bert")).logits, moved, rtol=1e-4, atol=1e-5)
    origin = tiny("bert").state_dict()
    assert set(final.state_dict()) == set(origin)
    distance = {name: float((value - origin[name]).norm()) for name, value in final.state_dict().items()}
    assert all(distance[name] == 0 for name in origin if ".layer.1." in name)
    # 100 coordinates: blocks of 128 outputs, so a tensor of whole blocks moves by lambda times their norm.
    norm = subspace.coordinates.detach().norm().item()
    assert distance["bert.encoder.layer.0.output.dense.weight"] == pytest.approx(norm, rel=0.15)
    assert distance["classifier.weight"] == pytest.approx(2 * norm * (64 / 128) ** 0.5, rel=0.3)


def test_subspace_moves_tied_embeddings_together():
    model, method = prepared({"name": "intrinsic-said", "dimension": 64}, "t5")
    with torch.no_grad():
        model.base_model.intrinsic_subspace.coordinates.normal_()
        moved = model(**batch("t5")).logits
    final = method.finalize(model)
    assert final.lm_head.weight is final.shared.weight
    torch.testing.assert_close(final(**batch("t5")).logits, moved, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_prompt_is_read_like_words_before_the_input(kind):
    model, _ = prepared({"name": "prompt-tuning", "tokens": 3}, kind)
    plain, inputs = tiny(kind), batch(kind)
    body, plain_body = model.base_model, plain.base_model
    words = plain.get_input_embeddings()(inputs["input_ids"])
    prompt = body.prompt.embedding.weight
    vocabulary = plain.get_input_embeddings().weight
    assert all((row == vocabulary).all(1).any() for row in prompt)
    with torch.no_grad():
        wanted = plain_body(
            inputs_embeds=torch.cat([prompt.expand(8, -1, -1), words], 1),
            attention_mask=torch.cat([torch.ones(8, 3, dtype=torch.long), inputs["attention_mask"]], 1),
        ).last_hidden_state[:, 3:]
        given = body(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
    torch.testing.assert_close(given.last_hidden_state, wanted)


def test_prompt_reaches_training_and_generation_of_t5():
    model, _ = prepared({"name": "prompt-tuning", "tokens": 3}, "t5")
    plain, inputs = tiny("t5"), batch("t5")
    words = plain.get_input_embeddings()(inputs["input_ids"])
    embeds = torch.cat([model.encoder.prompt.embedding.weight.expand(8, -1, -1), words], 1)
    mask = torch.cat([torch.ones(8, 3, dtype=torch.long), inputs["attention_mask"]], 1)
    with torch.no_grad():
        wanted = plain(inputs_embeds=embeds, attention_mask=mask, labels=inputs["labels"]).logits
        torch.testing.assert_close(model(**inputs).logits, wanted)
        said = plain.generate(inputs_embeds=embeds, attention_mask=mask, max_new_tokens=4)
        ours = model.generate(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], max_new_tokens=4)
    assert torch.equal(ours, said)


def test_prefix_gives_keys_and_values_to_every_layer():
    model, method = prepared({"name": "prefix-tuning", "tokens": 3}, "bert")
    inputs = {key: value for key, value in batch("bert").items() if key != "labels"}
    assert method.expected(model)["trainable_parameters"] == trainable(model) == 3 * 2 * 2 * 32 + 66
    seen = []
    hook = model.bert.encoder.layer[1].attention.self.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append((args[0] if args else kwargs["hidden_states"]).detach()),
        with_kwargs=True,
    )
    with torch.no_grad():
        model(**inputs)
        hook.remove()
        attention = model.bert.encoder.layer[1].attention.self
        prefix = model.bert.prefix.embedding.weight.view(3, 4, 4, 8)  # tokens, layers x (key, value), heads, size
        x = seen[0]
        query, key, value = (
            layer(x).view(8, 12, 4, 8).transpose(1, 2) for layer in (attention.query, attention.key, attention.value)
        )
        key = torch.cat([prefix[:, 2].transpose(0, 1).expand(8, -1, -1, -1), key], 2)
        value = torch.cat([prefix[:, 3].transpose(0, 1).expand(8, -1, -1, -1), value], 2)
        mask = torch.cat([torch.ones(8, 3), inputs["attention_mask"].float()], 1)[:, None, None]
        scores = (query @ key.transpose(2, 3) / 8**0.5).masked_fill(mask == 0, float("-inf"))
        wanted = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
        given = []
        attention.register_forward_hook(lambda module, args, output: given.append(output[0]))
        model(**inputs)
    torch.testing.assert_close(given[0], wanted, rtol=1e-4, atol=1e-5)


def test_prompt_longer_than_the_models_positions_is_an_error():
    model, _ = prepared({"name": "prompt-tuning", "tokens": 60}, "bert")
    with pytest.raises(ConfigError, match="have 72 positions, the model 64"):
        model(**batch("bert"))


def test_a_subspace_must_be_larger_than_its_scales():
    entry, config = parse({"name": "intrinsic-said", "dimension": 3})
    with pytest.raises(ConfigError, match="must exceed the 3 scales"):
        entry.create(config).prepare(tiny("bert"), Context())


@pytest.mark.parametrize("kind", ["bert", "t5"])
def test_lora_in_the_upper_layers_alone_is_pefts_with_the_same_layers_to_transform(kind):
    from peft import LoraConfig, inject_adapter_in_model

    model, method = prepared({"name": "lora-top", "rank": 2, "alpha": 4, "skip_layers": 1}, kind)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        wanted = tiny(kind)
        config = LoraConfig(
            r=2,
            lora_alpha=4,
            target_modules=["query", "value"] if kind == "bert" else ["q", "v"],
            layers_to_transform=[1],
            layers_pattern="layer" if kind == "bert" else "block",
        )
        inject_adapter_in_model(config, wanted)
    pairs = {name: p for name, p in model.named_parameters() if ".lora_" in name}
    assert set(pairs) == {name for name, _ in wanted.named_parameters() if ".lora_" in name}
    # Queries and values of one layer; T5 has a self-attention in each stack and the decoder's cross-attention.
    assert sum(p.numel() for p in pairs.values()) == (1 if kind == "bert" else 3) * 2 * 2 * (32 + 32)
    with torch.no_grad():
        for name, pair in pairs.items():
            wanted.get_parameter(name).copy_(pair.fill_(0.05))
        torch.testing.assert_close(model(**batch(kind)).logits, wanted(**batch(kind)).logits)
    assert method.expected(model)["trainable_parameters"] == trainable(model)


def test_below_the_upper_layers_nothing_is_differentiated():
    model, _ = prepared({"name": "lora-top", "rank": 2, "skip_layers": 1}, "bert")
    needed = []
    for layer in model.bert.encoder.layer:
        layer.register_forward_hook(
            lambda _m, _i, out: needed.append((out[0] if isinstance(out, tuple) else out).requires_grad)
        )
    model(**batch("bert"))
    assert needed == [False, True]


def test_skipping_every_layer_is_an_error():
    with pytest.raises(ConfigError, match="skip_layers 2 leaves no layer of this model's 2"):
        prepared({"name": "lora-top", "skip_layers": 2}, "bert")


@pytest.mark.parametrize("training", [True, False])
def test_lora_is_in_the_mode_of_the_model(training):
    model = tiny("bert").train(training)
    entry, config = parse({"name": "lora", "dropout": 0.5})
    entry.create(config).prepare(model, context("bert"))
    assert {module.training for module in model.modules()} == {training}


def test_lora_leaves_a_new_head_without_pairs_on_request():
    reference = {"name": "lora", "rank": 2, "targets": ["query", "dense"]}
    for pairs in (True, False):
        model, method = prepared({**reference, "head_pairs": pairs}, "roberta")
        names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        assert any(name.startswith("classifier.dense.lora_A") for name in names) == pairs
        assert any(name.startswith("classifier.dense.") and name.endswith("weight") for name in names)
        trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        assert method.expected(model)["trainable_parameters"] == trained


def test_lora_has_one_start():
    with pytest.raises(ConfigError, match="initial_std"):
        parse({"name": "lora", "initial_std": 0.1, "start": "xavier"})


def test_an_encoder_that_runs_alone_moves_in_the_subspace():
    model, method = prepared({"name": "intrinsic-said", "dimension": 64}, "t5")
    with torch.no_grad():
        model.base_model.intrinsic_subspace.coordinates.normal_()
    ids = batch("t5")["input_ids"]

    def generated(model):
        return model.generate(input_ids=ids, max_new_tokens=5, output_scores=True, return_dict_in_generate=True)

    with torch.no_grad():
        alone = model.get_encoder()(input_ids=ids).last_hidden_state
        searching = generated(model)
        still = tiny("t5").get_encoder()(input_ids=ids).last_hidden_state
        folded = method.finalize(model)
        torch.testing.assert_close(alone, folded.get_encoder()(input_ids=ids).last_hidden_state, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(alone, still, atol=1e-3)
        torch.testing.assert_close(searching.scores[0], generated(folded).scores[0], rtol=1e-4, atol=1e-5)


def test_biases_of_gpt2_are_counted():
    model, method = prepared("bitfit", "gpt2")
    assert method.expected(model)["trainable_parameters"] == trainable(model)
