"""Vision Mamba and M2-BERT: their sizes by hand, their scans and convolutions against sums written out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from replica import models
from replica.config import load_project
from replica.config.asset_schema import ModelEntry
from replica.errors import ConfigError
from replica.models.monarch import BlockDiagonalLinear, LongConvolution, M2BertConfig
from replica.models.state_space import SelectiveScan, VimConfig

PROJECT = load_project(Path(__file__).resolve().parents[2])


def count(name: str, head: str, labels: int = 2) -> int:
    return sum(
        p.numel() for p in models.build(PROJECT.model(name), head=head, labels=labels, device="meta").parameters()
    )


@pytest.mark.parametrize(("name", "width"), [("vim-tiny", 192), ("vim-small", 384), ("vim-base", 768)])
def test_vision_mamba_has_two_scans_and_one_pair_of_projections_a_block(name, width):
    inner, rank = 2 * width, width // 16
    scan = 5 * inner + inner * (rank + 32) + (rank + 1) * inner + 16 * inner + inner
    block = width + 2 * inner * width + 2 * scan + inner * width
    embeddings = 3 * 16**2 * width + width + width + (14**2 + 1) * width
    assert count(name, "image", 1000) == embeddings + 24 * block + width + 1000 * (width + 1)


@pytest.mark.parametrize(("name", "width"), [("m2-bert-80m", 768), ("m2-bert-260m", 1536)])
def test_m2_bert_is_filters_projections_and_a_quarter_of_a_gated_feed_forward(name, width):
    inner = 4 * width
    net = 5 * 128 + 128 + 2 * (128 * 128 + 128) + 128 * width
    convolution = 2 * net + 128 + 128 * 5 + width
    mixer = 4 * width * (width + 1) + 4 * 3 * width + 2 * convolution
    feed_forward = (2 * inner * width + inner * width) // 4 + width + 2 * width
    embeddings = (30522 + 128 + 2 + 2) * width
    head = width * (width + 1) + 2 * width + 30522
    assert count(name, "mlm") == embeddings + 12 * (mixer + feed_forward) + head


def test_a_scan_is_its_recurrence_written_as_a_sum():
    config = VimConfig(hidden_size=4, state_size=3)
    torch.manual_seed(0)
    scan = SelectiveScan(config)
    x = torch.randn(1, 5, 8)
    with torch.no_grad():
        found = scan(x)[0]
        kernel, bias = scan.conv1d.weight[:, 0], scan.conv1d.bias
        padded = torch.cat([torch.zeros(3, 8), x[0]])
        u = functional.silu(torch.stack([(padded[t : t + 4] * kernel.T).sum(0) + bias for t in range(5)]))
        step, b, c = (u @ scan.x_proj.weight.T).split([1, 3, 3], -1)
        step = functional.softplus(step @ scan.dt_proj.weight.T + scan.dt_proj.bias)
        rate = -torch.exp(scan.A_log)
        for t in range(5):
            y = scan.D * u[t]
            for s in range(t + 1):
                decay = torch.exp(rate * step[s + 1 : t + 1].sum(0)[:, None])
                y = y + (decay * (step[s] * u[s])[:, None] * b[s] * c[t]).sum(-1)
            torch.testing.assert_close(found[t], y)


def test_vision_mamba_reads_both_ways_and_reads_the_class_token():
    entry = ModelEntry(
        title="",
        architecture="vim",
        config={"image_size": 8, "patch_size": 4, "num_channels": 1, "hidden_size": 16, "num_hidden_layers": 1},
    )
    model = models.build(entry, head="image", labels=3)
    for row, column in ((0, 0), (1, 1)):
        image = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
        model(image).logits[0, 0].backward()
        assert image.grad[0, 0, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].abs().sum() > 0
    with pytest.raises(ConfigError, match="patch_size 4 is above image_size 2"):
        models.build(entry, head="image", changes={"image_size": 2})


def test_a_long_convolution_is_two_sums_over_the_sequence():
    torch.manual_seed(0)
    config = M2BertConfig(hidden_size=3, num_attention_heads=1, max_position_embeddings=7, filter_order=4)
    layer = LongConvolution(config)
    x = torch.randn(2, 5, 3)
    with torch.no_grad():
        after, before = (net(layer.positions[:5]) * layer.decay[:5] for net in (layer.after, layer.before))
        by_hand = layer.bias * x
        for t in range(5):
            for s in range(5):
                by_hand[:, t] += x[:, s] * (after[t - s] if s <= t else before[s - t - 1])
        torch.testing.assert_close(layer(x), by_hand, rtol=1e-4, atol=1e-5)


def test_a_block_diagonal_layer_is_a_dense_one_with_zeros():
    torch.manual_seed(0)
    layer = BlockDiagonalLinear(6, 9, 3, bias=True)
    x = torch.randn(4, 6)
    torch.testing.assert_close(layer(x), functional.linear(x, torch.block_diag(*layer.weight), layer.bias))
    with pytest.raises(ValueError, match="do not divide"):
        BlockDiagonalLinear(6, 8, 3, bias=False)


def test_m2_bert_predicts_masked_words_with_the_matrix_of_the_words():
    entry = ModelEntry(
        title="",
        architecture="m2-bert",
        config={
            "vocab_size": 40,
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 1,
            "intermediate_size": 32,
            "max_position_embeddings": 12,
        },
    )
    model = models.build(entry, head="mlm")
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight
    ids = torch.randint(0, 40, (3, 9), generator=torch.Generator().manual_seed(0))
    labels = torch.where(torch.arange(9) % 4 == 0, ids, -100)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(8):
        loss = model(ids, labels=labels).loss
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]
