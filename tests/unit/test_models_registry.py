"""Registered architectures have the parameters that their authors published, or that arithmetic over their matrices gives."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from replica import models
from replica.config import load_project
from replica.config.asset_schema import ModelEntry
from replica.errors import ConfigError
from replica.methods.stored import load_model, save_model

ROOT = Path(__file__).resolve().parents[2]
PROJECT = load_project(ROOT)


def count(name: str, head: str = "none", labels: int = 1000, **changes) -> int:
    model = models.build(
        PROJECT.model(name), head=head, labels=labels, device="meta", attention="eager", changes=changes
    )
    return sum(parameter.numel() for parameter in model.parameters())


def layer(width: int, inner: int) -> int:
    """Attention of four matrices, two feed-forward matrices, their biases, two norms."""
    return 4 * (width**2 + width) + 2 * width * inner + inner + width + 4 * width


def embeddings(rows: int, width: int) -> int:
    """Rows of words, positions and types, and a norm."""
    return rows * width + 2 * width


def pooler(width: int) -> int:
    return width**2 + width


# --- encoders -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "millions", "width", "inner"),
    [("albert-base-v2", 12, 768, 3072), ("albert-large-v2", 18, 1024, 4096), ("albert-xlarge-v2", 60, 2048, 8192)],
)
def test_albert_shares_one_layer_over_embeddings_of_128(name, millions, width, inner):
    """Sizes of Lan et al. 2020, Table 1, which rounds 58.7 to 60."""
    found = count(name)
    assert found == embeddings(30000 + 512 + 2, 128) + 128 * width + width + layer(width, inner) + pooler(width)
    assert found == pytest.approx(millions * 1e6, rel=0.03)


@pytest.mark.parametrize(
    ("name", "millions", "layers", "embedded", "width"),
    [
        ("electra-small", 13.5, 12, 128, 256),
        ("electra-base", 108.9, 12, 768, 768),
        ("electra-large", 334.1, 24, 1024, 1024),
    ],
)
def test_electra_sizes(name, millions, layers, embedded, width):
    projection = embedded * width + width if embedded != width else 0
    found = count(name)
    assert found == embeddings(30522 + 512 + 2, embedded) + projection + layers * layer(width, 4 * width)
    assert found == pytest.approx(millions * 1e6, abs=0.05e6)


def test_roberta_large_is_355_million():
    assert (
        count("roberta-large")
        == embeddings(50265 + 514 + 1, 1024) + 24 * layer(1024, 4096) + pooler(1024)
        == 355_359_744
    )


@pytest.mark.parametrize(("name", "layers", "width"), [("deberta-base", 12, 768), ("deberta-large", 24, 1024)])
def test_deberta_adds_relative_positions(name, layers, width):
    """One matrix for query, key and value without bias, two bias vectors, projections of positions of which one has a bias."""
    attention = 3 * width**2 + 2 * width + width**2 + (width**2 + width) + (width**2 + width) + 2 * width
    feed_forward = 8 * width**2 + 5 * width + 2 * width
    relative = 2 * 512 * width
    assert count(name) == embeddings(50265, width) + relative + layers * (attention + feed_forward)


def test_long_encoders_have_the_sizes_that_their_papers_students_are_compared_with():
    """Longformer has three more projections a layer for global tokens, Nyströmformer a convolution of 65 taps a head."""
    extra = 3 * (768**2 + 768)
    longformer = embeddings(50265 + 4098 + 1, 768) + 12 * (layer(768, 3072) + extra) + pooler(768)
    assert count("longformer-base") == longformer == 148_659_456  # 148.66M
    assert count("bigbird-base") == embeddings(50358 + 4096 + 2, 768) + 12 * layer(768, 3072) + pooler(768)
    assert count("nystromformer-base") == embeddings(30000 + 512 + 2, 768) + 12 * (layer(768, 3072) + 65 * 12)
    six = count("nystromformer-base", num_hidden_layers=6, max_position_embeddings=4096)
    assert six == pytest.approx(68.72e6, abs=0.005e6)
    assert count("longformer-base", num_hidden_layers=6) == pytest.approx(95.50e6, abs=0.005e6)


# --- encoder-decoders and decoders --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "published"), [("t5-large", 737_668_096), ("t5-3b", 2_851_598_336)])
def test_t5_sizes(name, published):
    config = PROJECT.model(name).config
    width, inner, layers = config["d_model"], config["d_ff"], config["num_layers"]
    attention = 4 * width * config["num_heads"] * config["d_kv"]
    encoder = layers * (attention + 2 * width * inner + 2 * width) + width + 32 * config["num_heads"]
    decoder = layers * (2 * attention + 2 * width * inner + 3 * width) + width + 32 * config["num_heads"]
    assert count(name, "text2text") == 32128 * width + encoder + decoder == published


@pytest.mark.parametrize(
    ("name", "published", "layers", "width"),
    [("bart-base", 139_420_416, 6, 768), ("bart-large", 406_291_456, 12, 1024)],
)
def test_bart_sizes(name, published, layers, width):
    words = 50265 * width + 2 * (1026 * width + 2 * width)  # positions (with an offset of 2) and a norm on both sides
    decoder = layer(width, 4 * width) + 4 * (width**2 + width) + 2 * width
    assert count(name) == words + layers * (layer(width, 4 * width) + decoder) == published
    assert count(name, "text2text") == published  # its output layer is the word embedding


@pytest.mark.parametrize(
    ("name", "published", "layers", "width"),
    [
        ("gpt2", 124_439_808, 12, 768),
        ("gpt2-medium", 354_823_168, 24, 1024),
        ("gpt2-large", 774_030_080, 36, 1280),
        ("gpt2-xl", 1_557_611_200, 48, 1600),
    ],
)
def test_gpt2_sizes(name, published, layers, width):
    assert count(name, "causal") == (50257 + 1024) * width + layers * layer(width, 4 * width) + 2 * width == published


@pytest.mark.parametrize(
    ("name", "millions", "layers", "width", "inner"),
    [
        ("llama-60m", 58.07, 8, 512, 1376),
        ("llama-130m", 134.1, 12, 768, 2048),
        ("llama-350m", 368.0, 24, 1024, 2736),
        ("llama-1b", 1339, 24, 2048, 5461),
        ("llama-3b", 2686, 32, 2560, 6848),
        ("llama-7b", 6738, 32, 4096, 11008),
    ],
)
def test_llama_sizes_are_those_of_galore(name, millions, layers, width, inner):
    """GaLore's configurations: 32,000 words, embedding and output layer apart, no biases."""
    found = count(name, "causal")
    assert found == 2 * 32000 * width + layers * (4 * width**2 + 3 * width * inner + 2 * width) + width
    assert found == pytest.approx(millions * 1e6, rel=4e-4)


@pytest.mark.parametrize(
    ("name", "published", "layers", "width", "rank"),
    [
        ("mamba-130m", 129_135_360, 24, 768, 48),
        ("mamba-370m", 371_516_416, 48, 1024, 64),
        ("mamba-790m", 793_204_224, 48, 1536, 96),
    ],
)
def test_mamba_sizes(name, published, layers, width, rank):
    inner = 2 * width
    mixer = (
        width * 2 * inner + 5 * inner + inner * (rank + 32) + rank * inner + inner + 16 * inner + inner + inner * width
    )
    assert count(name, "causal") == 50280 * width + layers * (mixer + width) + width == published


# --- images and sound ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("vit-base-16", 86_567_656),
        ("vit-large-16", 304_326_632),
        ("deit-small", 22_050_664),
        ("deit-base", 86_567_656),
        ("resnet-50", 25_557_032),
        ("vgg-16", 138_357_544),
        ("swin-tiny", 28_288_354),
        ("swin-small", 49_606_258),
        ("swin-base", 87_768_224),
        ("regnet-y-8gf", 39_381_472),
    ],
)
def test_classifiers_of_1000_classes_have_their_published_sizes(name, published):
    assert count(name, "image") == published


def test_clips_image_tower_with_its_projection():
    body = 768 * (3 * 32 * 32) + 768 + 50 * 768 + 2 * 2 * 768 + 12 * layer(768, 3072)
    assert count("clip-vit-b-32") == body
    assert count("clip-vit-b-32", "projection") == body + 768 * 512 == 87_849_216


def test_vgg_with_batch_norm_for_cifar_is_14_72_million():
    """13 convolutions without biases, a scale and a shift for each of their 4,224 channels, and 512 x 10 + 10."""
    widths = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    convolutions = sum(9 * a * b for a, b in pairwise(widths))
    found = count("vgg-16-cifar", "image", 10)
    assert found == convolutions + 2 * sum(widths[1:]) + 5130
    assert found == pytest.approx(14.72e6, abs=0.005e6)
    assert count("vgg-16", "image", batch_norm=True) == 138_365_992  # as torchvision's, biases beside the norms


def test_lenets_have_the_sizes_of_the_pruning_papers():
    assert count("lenet-300-100", "image", 10) == 784 * 300 + 300 + 300 * 100 + 100 + 100 * 10 + 10 == 266_610
    assert count("lenet-5", "image", 10) == 20 * 26 + 50 * 501 + 800 * 500 + 500 + 5010 == 431_080
    first = {"image_size": 32, "channels": [6, 16], "hidden_sizes": [120, 84]}
    assert count("lenet-5", "image", 10, **first) == 61_706  # LeCun et al. 1998, without its sparse connections


@pytest.mark.parametrize(
    ("depth", "width", "millions"), [(40, 1, 0.6), (40, 2, 2.2), (16, 8, 11.0), (22, 8, 17.2), (28, 10, 36.5)]
)
def test_wide_residual_networks_have_the_sizes_of_their_paper(depth, width, millions):
    """Zagoruyko and Komodakis 2016, Tables 3 and 4."""
    assert count("wideresnet-22-2", "image", 10, depth=depth, width=width) == pytest.approx(millions * 1e6, abs=0.05e6)


def test_wideresnet_22_2_by_hand():
    def group(before: int, width: int) -> int:
        first = 9 * before * width + 9 * width**2 + before * width + 2 * (before + width)
        return first + 2 * (18 * width**2 + 4 * width)

    expected = 3 * 16 * 9 + group(16, 32) + group(32, 64) + group(64, 128) + 2 * 128 + 128 * 10 + 10
    assert count("wideresnet-22-2", "image", 10) == expected


@pytest.mark.parametrize(
    ("name", "millions", "layers", "width", "code", "shared"),
    [("wav2vec2-base", 95, 12, 768, 256, 256), ("wav2vec2-large", 317, 24, 1024, 768, 768)],
)
def test_wav2vec2_with_its_quantiser_is_95_and_317_million(name, millions, layers, width, code, shared):
    """Baevski et al. 2020, section 4.2: seven convolutions, one of positions in 16 groups with normed weights, 2 x 320 codes."""
    convolutions = 512 * 10 + 4 * 512 * 512 * 3 + 2 * 512 * 512 * 2 + 2 * 512
    projection = 2 * 512 + 512 * width + width
    positions = width * (width // 16) * 128 + 128 + width
    body = convolutions + projection + width + positions + 2 * width + layers * layer(width, 4 * width)
    quantiser = 640 * code // 2 + 512 * 640 + 640 + (code + 1) * shared + (width + 1) * shared
    assert count(name) == body
    assert count(name, "pretraining") == body + quantiser == pytest.approx(millions * 1e6, rel=0.002)


# --- the entries themselves ---------------------------------------------------------------------------------------------


def test_every_registered_model_is_built_on_meta():
    for name, entry in PROJECT.models.items():
        if entry.architecture != "tokenizer":
            assert count(name) > 0, name


def test_a_convolutional_model_is_built_by_seed_stored_and_read_back(tmp_path):
    entry = PROJECT.model("lenet-5")
    first, second = (models.build(entry, head="image", labels=10, seed=4) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    save_model(first, tmp_path, head="image", labels=10, structure=[])
    again, _ = load_model(tmp_path)
    images = torch.rand(2, 1, 28, 28)
    assert torch.equal(first(pixel_values=images).logits, again(pixel_values=images).logits)
    assert len(models.encoder_layers(first)) == 3


@pytest.mark.parametrize("name", ["wideresnet-22-2", "vgg-16-cifar"])
def test_convolutional_models_learn_a_batch_by_heart(name):
    torch.manual_seed(0)
    small = {"depth": 10, "width": 1} if name.startswith("wide") else {"stages": [[8], [16], [16]]}
    entry = PROJECT.model(name)
    model = models.build(entry, head="image", labels=2, changes=small).train()
    images, labels = torch.rand(8, 3, 32, 32), torch.tensor([0, 1] * 4)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(30):
        optimizer.zero_grad()
        loss = model(pixel_values=images, labels=labels).loss
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("roberta-large", {"num_attention_heads": 15}, "num_attention_heads 15 does not divide the width 1024"),
        (
            "llama-60m",
            {"num_attention_heads": 7},
            "architecture 'llama': .*not a multiple of the number of attention heads",
        ),
        ("llama-60m", {"num_key_value_heads": 3}, "num_key_value_heads 3 does not divide num_attention_heads 8"),
        ("bart-base", {"decoder_attention_heads": 5}, "decoder_attention_heads 5 does not divide the width 768"),
        ("roberta-large", {"hidden_size": -4}, "hidden_size is -4"),
        ("wideresnet-22-2", {"depth": 23}, "depth 23 is not 6n"),
        ("lenet-5", {"image_size": 8}, "too small"),
        ("gpt2", {"n_layers": 3}, "has no configuration field 'n_layers'; did you mean 'n_layer'"),
    ],
)
def test_sizes_that_make_no_model_are_errors(name, changes, message):
    with pytest.raises(ConfigError, match=message):
        count(name, **changes)


def test_a_head_that_an_architecture_lacks_is_an_error_that_names_those_it_has():
    with pytest.raises(ConfigError, match="architecture 'resnet' has no head 'mlm'; it has text, image"):
        count("resnet-50", "mlm")
    with pytest.raises(ConfigError, match="unknown head 'causual'; did you mean 'causal'"):
        count("gpt2", "causual")


def test_an_architecture_without_a_fused_kernel_is_built_with_its_own():
    entry = ModelEntry(
        title="", architecture="deberta", config={**PROJECT.model("deberta-base").config, "num_hidden_layers": 1}
    )
    assert models.build(entry, head="none", device="meta").config._attn_implementation == "eager"


def test_retrieved_weights_of_such_an_architecture_are_read(tmp_path):
    sizes = {
        "hidden_size": 32,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "vocab_size": 40,
    }
    entry = ModelEntry(title="", architecture="deberta", config={**PROJECT.model("deberta-base").config, **sizes})
    stored = models.build(entry, head="none", seed=3)
    save_file(dict(stored.state_dict()), tmp_path / "model.safetensors", metadata={"format": "pt"})
    found = models.from_asset(entry, tmp_path, head="classification")
    words = "embeddings.word_embeddings.weight"
    assert torch.equal(found.state_dict()[f"deberta.{words}"], stored.state_dict()[words])
    with pytest.raises(ConfigError, match="architecture 'deberta' has no head 'causal'"):
        models.from_asset(entry, tmp_path, head="causal")


@pytest.mark.parametrize(("name", "published"), [("mt5-small", 300_176_768), ("mt5-base", 582_401_280)])
def test_mt5_has_an_output_layer_of_its_own(name, published):
    """Numbers of the released checkpoints: one embedding for both stacks, and a separate output layer."""
    assert count(name, head="text2text") == published
