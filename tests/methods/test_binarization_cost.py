"""Bits and operations of BERT-base-sized binary encoders on meta, against the arithmetic of the published costs."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification, BertModel

from replica.methods.base import Context
from replica.methods.binarization.bipft import binary_cost as cost
from replica.methods.registry import parse

H, INNER, L, V, P = 768, 3072, 12, 30522, 512


def prepared(kind=BertModel, config=None, **options):
    entry, values = parse({"name": "bipft", **options})
    method = entry.create(values)
    with torch.device("meta"):
        model = kind(config or BertConfig())
    method.prepare(model, Context())
    return model, method


@pytest.fixture(scope="module")
def base_a():
    return prepared(estimators=False)


@pytest.fixture(scope="module")
def base_b():
    return prepared(estimators=True)


def test_estimators_add_46140_weights(base_a, base_b):
    counts = [sum(p.numel() for p in model.parameters()) for model, _ in (base_a, base_b)]
    assert counts[1] - counts[0] == 5 * (768 + 1) * 12 == 46_140


def test_storage_follows_the_arithmetic_of_the_paper(base_a):
    found = cost.storage_bits(base_a[0])
    binary = V * H + L * (4 * H * H + 2 * H * INNER) + H * H
    full = (P + 2) * H + (2 * L + 1) * 2 * H + L * (5 * H + INNER) + H
    assert found["binary_weights_bits"] == binary
    assert found["paper_bits"] == binary + 32 * full
    assert found["full_precision_bits"] == 32 * (binary + full) == 32 * 109_482_240
    assert round(found["full_precision_mib"], 2) == 417.64
    assert (round(found["paper_mib"], 2), round(found["paper_ratio"], 2)) == (14.96, 27.91)


def test_storage_of_the_released_code(base_a, base_b):
    a, b = cost.storage_bits(base_a[0]), cost.storage_bits(base_b[0])
    assert (round(a["released_mib"], 1), round(a["released_ratio"], 2)) == (15.4, 27.11)
    assert (round(b["released_mib"], 2), round(b["released_ratio"], 2)) == (15.58, 26.81)
    assert a["pooler_norm_bits"] == 32 * 2 * H
    assert b["released_bits"] - a["released_bits"] == 32 * 46_140


@pytest.mark.parametrize("estimators", [True, False])
@pytest.mark.parametrize("kind", [BertModel, BertForSequenceClassification, BertForMaskedLM])
def test_expected_agrees_with_the_tensors_before_and_after_packing(kind, estimators):
    config = BertConfig(
        vocab_size=101, hidden_size=20, num_attention_heads=4, num_hidden_layers=2, intermediate_size=36
    )
    for store in ("latent", "packed"):
        model, method = prepared(kind, config, estimators=estimators, store=store)
        assert sum(p.numel() for p in model.parameters()) == method.expected(model)["trainable_parameters"]
        before = method.expected(model)
        model = method.finalize(model)
        tensors = {id(t): t for t in model.state_dict(keep_vars=True).values()}
        bits = sum(8 * t.numel() * t.element_size() for t in tensors.values())
        assert bits == before["storage_bits"] == method.expected(model)["storage_bits"]
        if store == "packed":
            assert cost.storage_bits(model)["total_bits"] == bits
            assert not any(p.requires_grad for name, p in model.named_parameters() if "attention.self" in name)


def test_storage_counts_latent_and_packed_models_alike(base_b):
    packed, method = prepared(estimators=True, store="packed")
    assert cost.storage_bits(method.finalize(packed)) == cost.storage_bits(base_b[0])


def test_operations_of_bert_base_at_length_128(base_a, base_b):
    n = 128
    products = L * (n * (4 * H * H + 2 * H * INNER) + 2 * n * n * H) + H * H
    a, b = cost.operations(base_a[0], 1, n), cost.operations(base_b[0], 1, n)
    assert a["binary_macs"] == b["binary_macs"] == products
    assert round(2 * products / 1e9, 2) == 22.35 and round(a["binary_operations"] / 1e9, 3) == 0.349
    estimators = L * (n * 5 * H + 3 * n * n + 12 * n * n)
    assert b["full_macs"] - a["full_macs"] == b["estimator_macs"] == estimators
    assert round(estimators / 1e9, 5) == 0.00885
    assert a["products_ratio"] == a["binary_ratio"] == 64
    assert b["products_ratio"] == pytest.approx(2 * products / (2 * products / 64 + 2 * estimators))
    assert b["elementwise_ratio"] < a["elementwise_ratio"] < 64


def test_costs_by_activation_bits_round_to_the_published_ones(base_a, base_b):
    """BERT 22.5 G and 1.5, 0.8, 0.4 G at 4, 2, 1 activation bits stand in the README of BiT; 22.5 is within half a percent."""
    found = cost.operations(base_a[0], 1, 128)
    for bits, published in ((4, 1.5), (2, 0.8), (1, 0.4)):
        assert round((bits * found["binary_operations"] + found["full_precision_elementwise"]) / 1e9, 1) == published
    assert found["full_precision_operations"] / 1e9 == pytest.approx(22.5, rel=0.005)
    assert found["network_operations"] == found["binary_operations"] + found["full_precision_elementwise"]
    tokens, elementwise = 128, 0
    elementwise += (2 * L + 1) * tokens * 7 * H + L * tokens * 5 * INNER + L * 12 * tokens * tokens * 7
    elementwise += L * tokens * (5 * H + INNER) + H + 2 * (L + 1) * tokens * H
    assert found["full_precision_elementwise"] == elementwise


def test_products_agree_with_a_profile_of_the_forward_pass():
    """FlopCounterMode sees the operators themselves; the score residual is one rank-2 product there, of the three counted."""
    config = BertConfig(
        vocab_size=101, hidden_size=24, num_attention_heads=3, num_hidden_layers=2, intermediate_size=40
    )
    batch, length = 3, 16
    for estimators in (False, True):
        model, _ = prepared(BertForSequenceClassification, config, estimators=estimators)
        model.eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(input_ids=torch.zeros(batch, length, dtype=torch.long, device="meta"))
        found = cost.operations(model, batch, length)
        merged = 2 * batch * length * length if estimators else 0  # 2 layers x 1 product
        assert counter.get_total_flops() == 2 * (found["binary_macs"] + found["full_macs"] - merged)
        assert found["head_macs"] == batch * 24 * 2


def test_operations_leave_the_model_as_it_was():
    config = BertConfig(
        vocab_size=101, hidden_size=24, num_attention_heads=3, num_hidden_layers=1, intermediate_size=40
    )
    entry, values = parse("bipft")
    model, method = BertModel(config), entry.create(values)
    method.prepare(model, Context())
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    cost.operations(model, 1, 8)
    assert model.training and all(torch.equal(before[name], value) for name, value in model.state_dict().items())
