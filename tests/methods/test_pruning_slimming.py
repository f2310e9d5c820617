"""Structured tickets: where the coefficients act, the penalty's gradient, what is cut, when it is drawn, what is stored."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from replica import models
from replica.config import load_project
from replica.config.schema import Measurement
from replica.errors import ConfigError, TrainingError
from replica.measure.structural import measure
from replica.methods import Context, parse
from replica.methods.pruning.slimming_ticket.method import COEFFICIENTS, DRAWN, draw_step
from replica.methods.stored import load_model, save_model

PROJECT = load_project(Path(__file__).resolve().parents[2])
LAYERS, HEADS, NEURONS = 2, 6, 20


def tiny() -> BertForSequenceClassification:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=50,
            hidden_size=24,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            intermediate_size=NEURONS,
            max_position_embeddings=16,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            initializer_range=0.3,
        )
        return BertForSequenceClassification(config).eval()


def batch() -> dict[str, torch.Tensor]:
    ids = torch.randint(0, 50, (4, 9), generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, "labels": (ids[:, 0] < 25).long()}


def method(**config):
    entry, parsed = parse({"name": "slimming-ticket", **config})
    return entry.create(parsed)


def coefficients(model) -> list[torch.Tensor]:
    layers = model.bert.encoder.layer
    return [getattr(r, COEFFICIENTS) for layer in layers for r in (layer.attention.output.dense, layer.output.dense)]


def search(slimming, model, steps: int, epoch_steps: int) -> Context:
    context = Context(total_steps=steps)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        model(**batch()).loss.backward()
        slimming.on_gradients(model, context)
        optimizer.step()
        context.step, context.epoch = step, step / epoch_steps
        slimming.on_step_end(model, context)
    return context


def test_a_zero_coefficient_is_a_head_or_neuron_that_is_not_there():
    """Against weights set to zero by hand: the columns of the output layer that read the head (4 wide) or the neuron."""
    ours, by_hand = tiny(), tiny()
    torch.testing.assert_close(ours(**batch()).logits, by_hand(**batch()).logits)
    method().prepare(ours, Context())
    torch.testing.assert_close(ours(**batch()).logits, by_hand(**batch()).logits)
    with torch.no_grad():
        coefficients(ours)[0][2] = 0
        coefficients(ours)[3][5] = 0
        by_hand.bert.encoder.layer[0].attention.output.dense.weight[:, 8:12] = 0
        by_hand.bert.encoder.layer[1].output.dense.weight[:, 5] = 0
    torch.testing.assert_close(ours(**batch()).logits, by_hand(**batch()).logits)


def test_a_coefficient_scales_attention_weights_before_the_values():
    """(c P) V by hand from the attention weights that transformers returns."""
    model = tiny()
    model.set_attn_implementation("eager")
    method().prepare(model, Context())
    with torch.no_grad():
        coefficients(model)[0].copy_(torch.linspace(-1, 2, HEADS))
    seen = []
    attention = model.bert.encoder.layer[0].attention
    attention.output.dense.register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0]))
    output = model(**batch(), output_attentions=True, output_hidden_states=True)
    values = attention.self.value(output.hidden_states[0]).unflatten(-1, (HEADS, 4)).transpose(1, 2)
    scaled = output.attentions[0] * coefficients(model)[0][:, None, None]
    torch.testing.assert_close(seen[0], (scaled @ values).transpose(1, 2).flatten(-2))


def test_the_penalty_is_a_sum_over_all_layers():
    """The same gradient as that of loss + lambda * sum |c|, by autograd."""
    models_ = [tiny(), tiny()]
    slimming = method(heads_penalty=0.3, neurons_penalty=0.05)
    for model in models_:
        slimming.prepare(model, Context())
        with torch.no_grad():
            for values in coefficients(model):
                values.add_(torch.linspace(-3, 1, len(values)))
    models_[0](**batch()).loss.backward()
    slimming.on_gradients(models_[0], Context())
    heads, neurons = coefficients(models_[1])[::2], coefficients(models_[1])[1::2]
    penalty = 0.3 * sum(c.abs().sum() for c in heads) + 0.05 * sum(c.abs().sum() for c in neurons)
    (models_[1](**batch()).loss + penalty).backward()
    for ours, by_autograd in zip(coefficients(models_[0]), coefficients(models_[1]), strict=True):
        torch.testing.assert_close(ours.grad, by_autograd.grad)


def test_the_ticket_is_the_initial_network_without_what_has_the_smallest_coefficients():
    model, initial = tiny(), tiny()
    slimming = method(draw=3, neurons_penalty=1e-2)
    slimming.prepare(model, Context())
    search(slimming, model, 3, 10)
    scores = [c.detach().clone() for c in coefficients(model)]
    ticket = slimming.finalize(model)
    cut = sorted(torch.cat(scores[1::2]).tolist())[: round(0.4 * LAYERS * NEURONS)]
    for number, values in enumerate(scores):
        worst = sorted(values.tolist())[: HEADS // 3] if number % 2 == 0 else cut
        layer = initial.bert.encoder.layer[number // 2]
        reader = layer.output.dense if number % 2 else layer.attention.output.dense
        width = 1 if number % 2 else 4
        with torch.no_grad():
            for unit, value in enumerate(values.tolist()):
                if value in worst:
                    reader.weight[:, unit * width : (unit + 1) * width] = 0
    torch.testing.assert_close(ticket(**batch()).logits, initial(**batch()).logits)
    assert slimming.config.kept_heads == [4] * LAYERS
    assert sum(slimming.config.kept_neurons) == LAYERS * NEURONS - 16


def test_what_is_drawn_does_not_move_with_later_steps():
    longer, shorter = tiny(), tiny()
    first, second = method(draw=0.2), method(draw=0.2)
    first.prepare(longer, Context())
    second.prepare(shorter, Context())
    search(first, longer, 12, 20)
    search(second, shorter, 4, 20)
    torch.testing.assert_close(first.finalize(longer)(**batch()).logits, second.finalize(shorter)(**batch()).logits)


def test_it_is_drawn_after_a_fifth_of_the_first_epoch():
    model, slimming = tiny(), method()
    slimming.prepare(model, Context())
    drawn = []
    context = Context(total_steps=60)
    for step in range(1, 31):
        with torch.no_grad():
            for values in coefficients(model):
                values.add_(torch.rand(len(values)) * 0.1)
        context.step, context.epoch = step, step / 30
        slimming.on_step_end(model, context)
        drawn.append(bool(getattr(model.bert, DRAWN)))
    assert drawn.index(True) + 1 == 6
    assert draw_step(slimming.config, 3068) == 614
    assert draw_step(method(draw=700).config, 3068) == 700


def test_drawing_before_anything_was_learned_and_ending_before_the_draw_are_errors():
    model, slimming = tiny(), method(draw=1)
    slimming.prepare(model, Context())
    with pytest.raises(TrainingError, match="draw later"):
        slimming.on_step_end(model, Context(step=1, total_steps=5))
    with pytest.raises(TrainingError, match="before the ticket was drawn"):
        slimming.finalize(model)
    with pytest.raises(ConfigError, match="architecture 't5'"):
        method().prepare(models.build(PROJECT.model("smoke-t5"), head="text2text"), Context())


def test_a_stored_ticket_loads_under_another_head_and_trains_without_penalty(tmp_path):
    model, slimming = tiny(), method(draw=2)
    slimming.prepare(model, Context())
    search(slimming, model, 2, 10)
    ticket = slimming.finalize(model)
    structure = [{"name": "slimming-ticket", **slimming.config.model_dump(exclude_defaults=True, mode="json")}]
    save_model(ticket, tmp_path, head="classification", labels=2, structure=structure)
    loaded, found = load_model(tmp_path, head="tagging", labels=3)
    assert found == structure
    ids = batch()["input_ids"]
    torch.testing.assert_close(loaded.bert(ids).last_hidden_state, ticket.bert(ids).last_hidden_state)
    slimming.prepare(loaded, Context(restored=frozenset({"slimming-ticket"})))
    loaded(ids, labels=torch.zeros_like(ids)).loss.backward()
    before = [c.grad.clone() for c in coefficients(loaded)]
    slimming.on_gradients(loaded, Context())
    assert all(torch.equal(old, c.grad) for old, c in zip(before, coefficients(loaded), strict=True))


def test_bert_base_loses_four_heads_a_layer_and_two_fifths_of_its_neurons():
    found = measure(
        PROJECT,
        Measurement(
            model="bert-base-uncased",
            methods=[{"name": "slimming-ticket", "scores": "random"}],
            meters={"parameters": {}, "method_cost": {}, "flops": {}},
        ),
    )
    cost = found["method_cost"]
    assert cost["most_heads_cut"] == cost["fewest_heads_cut"] == 4
    # The quantile lies between the 14,746th and the 14,747th of 36,864 values: 0.4 * 36,863 = 14,745.2.
    kept = 36_864 - 14_746
    assert cost["neurons_cut"] == 14_746
    layers = 12 * (3 * 769 * 512 + 513 * 768 + 4 * 768 + 768) + kept * (2 * 768 + 1) + 12 * 8 + kept
    assert found["parameters"]["transformer"] == layers
    assert found["parameters"]["expected"]["slimming-ticket"]["total_parameters"] == found["parameters"]["total"]
    linear = 2 * 128 * (12 * 4 * 768 * 512 + 2 * 768 * kept)
    assert found["flops"]["transformer_linear_forward"] == linear
