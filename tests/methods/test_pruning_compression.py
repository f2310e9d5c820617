"""Compression ratios against the arithmetic of the published shapes."""

from __future__ import annotations

import pytest
import torch
from transformers import BertConfig, BertModel

from replica.methods import Context, parse
from replica.methods.pruning.gradual_magnitude_pruning.method import compression_ratio

LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}


def cost(sparsity, bits, **config):
    with torch.device("meta"):
        model = BertModel(BertConfig(**config))
    entry, values = parse({"name": "gradual-magnitude-pruning", "sparsity": sparsity})
    method = entry.create(values)
    method.prepare(model, Context())
    return method.cost(model, bits=bits)


def test_encoder_weights_are_those_of_the_published_sizes():
    assert cost(0.9, 8)["linear_weights"] == 12 * 12 * 768**2 == 84_934_656
    large = cost(0.9, 8, **LARGE)
    assert large["linear_weights"] == 24 * 12 * 1024**2 == 301_989_888
    assert large["other_parameters"] == 24 * (4 * 1024 + 4096 + 1024 + 2 * 2 * 1024)


@pytest.mark.parametrize(
    ("sparsity", "bits", "ratio"), [(0.85, 8, 4 / 0.15), (0.9, 8, 40), (0.85, 32, 1 / 0.15), (0.9, 32, 10)]
)
def test_values_only_ratio_is_the_published_one(sparsity, bits, ratio):
    assert cost(sparsity, bits, **LARGE)["values_only_ratio"] == pytest.approx(ratio, rel=1e-5)


def test_other_ways_of_counting():
    # 4 bytes dense; 0.1 byte of int8 values and an eighth of mask a position
    assert cost(0.9, 8, **LARGE)["with_mask_ratio"] == pytest.approx(4 / (0.1 + 0.125), rel=1e-5)
    rest = 24 * 13 * 1024
    by_hand = 4 * (301_989_888 + rest) / (0.1 * 301_989_888 + 4 * rest)
    assert cost(0.9, 8, **LARGE)["with_rest_ratio"] == pytest.approx(by_hand, rel=1e-5)
    assert compression_ratio(100, 10, 8, dense=4, index_bits=1) == pytest.approx((104 * 32) / (80 + 100 + 128))
