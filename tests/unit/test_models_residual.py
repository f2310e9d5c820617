"""Residual networks against published counts, transformers' ResNet, and the arithmetic of their blocks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import ResNetConfig, ResNetForImageClassification

from replica import models
from replica.config import load_project
from replica.errors import ConfigError
from replica.models.residual import ResidualBlock, ResidualConfig, ResidualForImageClassification

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def project():
    return load_project(ROOT, papers=["rethinking_pruning"])


def built(project, name, labels=10, **changes):
    return models.build(project.model(name), head="image", labels=labels, device="meta", changes=changes)


def count(model):
    return sum(p.numel() for p in model.parameters())


def test_networks_for_small_images_have_the_published_sizes(project):
    widths = [16] * 7 + [32] * 6 + [64] * 6
    inputs = [3] + [16] * 7 + [32] * 6 + [64] * 5
    by_hand = sum(9 * a * b + 2 * b for a, b in zip(inputs, widths, strict=True)) + 65 * 10
    assert count(built(project, "resnet-20-cifar")) == by_hand == 269_722
    projected = 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64
    assert count(built(project, "resnet-20-cifar", shortcut="projection")) == by_hand + projected
    assert count(built(project, "resnet-18-cifar")) == 11_173_962  # the widely used CIFAR version of ResNet-18


def test_block_by_block_resnet_50_computes_what_transformers_does():
    torch.manual_seed(0)
    shape = {
        "hidden_sizes": [8, 16],
        "depths": [2, 1],
        "embedding_size": 4,
        "downsample_in_first_stage": False,
        "num_labels": 3,
    }
    theirs = ResNetForImageClassification(ResNetConfig(layer_type="bottleneck", **shape)).eval()
    blocks = [[[4, 2, 2], [8, 2, 2]], [[8, 4, 4]]]
    config = ResidualConfig(
        image_size=32, stem="7x7", stem_width=4, widths=[8, 16], blocks=blocks, shortcut="projection", num_labels=3
    )
    ours = ResidualForImageClassification(config).eval()
    order = [name for name, _ in theirs.named_parameters()]
    # transformers lists a block's shortcut before its branch, we list it after
    state = theirs.state_dict()
    mine = dict(ours.named_parameters())
    assert sum(p.numel() for p in mine.values()) == count(theirs)
    pairs = {
        "body.embedder.0": "resnet.embedder.embedder.convolution",
        "body.embedder.1": "resnet.embedder.embedder.normalization",
    }
    for at, (stage, block) in enumerate([(0, 0), (0, 1), (1, 0)]):
        inside = f"resnet.encoder.stages.{stage}.layers.{block}"
        for place in range(3):
            pairs[f"body.layers.{at}.branch.{place}.0"] = f"{inside}.layer.{place}.convolution"
            pairs[f"body.layers.{at}.branch.{place}.1"] = f"{inside}.layer.{place}.normalization"
        if f"{inside}.shortcut.convolution.weight" in order:
            pairs[f"body.layers.{at}.shortcut.0"] = f"{inside}.shortcut.convolution"
            pairs[f"body.layers.{at}.shortcut.1"] = f"{inside}.shortcut.normalization"
    pairs["classifier"] = "classifier.1"
    loaded = {
        f"{a}.{key}": tensor
        for a, b in pairs.items()
        for key, tensor in ((k.removeprefix(f"{b}."), v) for k, v in state.items() if k.startswith(f"{b}."))
    }
    ours.load_state_dict(loaded)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(ours(pixel_values=images).logits, theirs(pixel_values=images).logits)


def test_padded_shortcuts_removed_branches_and_narrow_inputs():
    config = ResidualConfig(shortcut="padding")
    block = ResidualBlock(4, [], 8, 2, config)
    images = torch.rand(1, 4, 6, 6)
    out = block(images)
    assert out.shape == (1, 8, 3, 3)
    assert torch.equal(out[:, 2:6], images[:, :, ::2, ::2])
    assert not out[:, [0, 1, 6, 7]].any()
    narrow = ResidualBlock(8, [5, 3, 2], 8, 1, config)
    assert [tuple(conv[0].weight.shape) for conv in narrow.branch] == [(3, 5, 1, 1), (2, 3, 3, 3), (8, 2, 1, 1)]
    assert narrow(torch.rand(1, 8, 6, 6)).shape == (1, 8, 6, 6)


@pytest.mark.parametrize(
    "wrong",
    [
        {"shortcut": "none"},
        {"stem": "5x5"},
        {"widths": [16]},
        {"blocks": [[[16]], [[16, 32]], [[32, 64]]]},
        {"blocks": [[[99, 16]], [], []]},
    ],
)
def test_networks_that_cannot_be_built_are_errors(project, wrong):
    with pytest.raises(ConfigError, match="residual"):
        built(project, "resnet-20-cifar", **wrong)
