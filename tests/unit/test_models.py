"""Models are built alike from equal arguments, and pretrained bodies go under any head."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from replica import models
from replica.config import load_project
from replica.config.asset_schema import ModelEntry
from replica.config.task_schema import Task
from replica.errors import AssetError, ConfigError
from replica.models.heads import HEADS
from replica.tasks import kinds

from .small_models import BERT, entry, same


def test_equal_seeds_give_equal_weights_whatever_ran_before():
    first = models.build(entry(), head="classification", labels=3, seed=7)
    torch.rand(5)
    before = torch.random.get_rng_state()
    second = models.build(entry(), head="classification", labels=3, seed=7)
    assert same(first, second)
    assert torch.equal(before, torch.random.get_rng_state())
    assert not same(first, models.build(entry(), head="classification", labels=3, seed=8))


def test_bert_has_the_parameters_that_arithmetic_gives():
    v, h, p, t, f, layers = 50, 16, 32, 2, 32, 2
    embeddings = (v + p + t) * h + 2 * h
    layer = 4 * (h * h + h) + 2 * h + (h * f + f) + (f * h + h) + 2 * h
    pooler = h * h + h
    model = models.build(entry(), head="none", device="meta")
    assert sum(x.numel() for x in model.parameters()) == embeddings + layers * layer + pooler
    assert all(x.is_meta for x in model.parameters())


@pytest.mark.parametrize("head", [h for h in HEADS if h not in ("text2text", "image")])
def test_every_head_stands_on_bert_on_meta_and_for_real(head):
    meta = models.build(entry(), head=head, labels=5, device="meta")
    real = models.build(entry(), head=head, labels=5)
    assert {k: v.shape for k, v in meta.state_dict().items()} == {k: v.shape for k, v in real.state_dict().items()}
    if head in ("classification", "tagging"):
        assert real.classifier.out_features == 5
    if head == "regression":
        assert real.classifier.out_features == 1
        output = real(input_ids=torch.tensor([[1, 2]]), labels=torch.tensor([1.5]))
        assert output.loss.item() == pytest.approx((output.logits.item() - 1.5) ** 2, rel=1e-5)


@pytest.mark.parametrize(
    ("architecture", "head", "layers"),
    [
        ("bert", "mlm", 2),
        ("roberta", "span", 2),
        ("distilbert", "classification", 2),
        ("t5", "text2text", 4),
        ("vit", "image", 2),
    ],
)
def test_layers_and_body_are_found(architecture, head, layers):
    model = models.build(entry(architecture), head=head)
    assert len(models.encoder_layers(model)) == layers
    counted = sum(p.numel() for layer in models.encoder_layers(model) for p in layer.parameters())
    assert 0 < counted < sum(p.numel() for p in models.body(model).parameters())


def test_attention_and_changes_reach_the_configuration():
    model = models.build(entry(), head="none", attention="eager", changes={"num_hidden_layers": 1})
    assert model.config._attn_implementation == "eager"
    assert len(models.encoder_layers(model)) == 1
    assert models.build(entry(), head="none").config._attn_implementation == "sdpa"


def test_unknown_names_are_said_with_the_nearest_known():
    with pytest.raises(ConfigError, match="did you mean 'num_hidden_layers'"):
        models.build(entry(num_hiden_layers=3), head="none")
    with pytest.raises(ConfigError, match="did you mean 'classification'"):
        models.build(entry(), head="clasification")
    with pytest.raises(ConfigError, match="unknown architecture 'birt'"):
        models.build(ModelEntry(title="t", architecture="birt", config={}), head="none")


def test_head_of_a_task():
    task = Task(
        name="t", version=1, dataset="d", kind="mlm", inputs=["text"], splits={"train": "a", "select": "b"},
        metrics=[{"name": "mlm_loss", "direction": "lower"}],
    )  # fmt: skip
    assert kinds.of(task).head(task) == "mlm"
    assert kinds.of(task).head(task.model_copy(update={"next_sentence": True})) == "pretraining"


@pytest.fixture
def asset(tmp_path):
    """A folder like a retrieved one: the bare encoder without prefix, as sentence encoders are stored."""
    model = models.build(entry(), head="none", seed=3)
    save_file(dict(model.state_dict()), tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "bert", "position_embedding_type": "absolute", **BERT}), encoding="utf-8"
    )
    return tmp_path, model


def test_pretrained_body_goes_under_a_new_head_drawn_by_the_seed(asset):
    folder, source = asset
    first = models.from_asset(entry(), folder, head="classification", labels=4, seed=1)
    for name, tensor in source.state_dict().items():
        assert torch.equal(first.state_dict()[f"bert.{name}"], tensor)
    assert same(first, models.from_asset(entry(), folder, head="classification", labels=4, seed=1))
    other = models.from_asset(entry(), folder, head="classification", labels=4, seed=2)
    assert not torch.equal(first.classifier.weight, other.classifier.weight)
    masked = models.from_asset(entry(), folder, head="mlm", seed=1)
    assert masked.cls.predictions.decoder.weight is masked.bert.embeddings.word_embeddings.weight


def test_missing_body_weights_are_an_error_and_a_missing_pooler_is_not(asset):
    folder, _ = asset
    tensors = load_file(folder / "model.safetensors")
    without_pooler = {k: v for k, v in tensors.items() if not k.startswith("pooler")}
    save_file(without_pooler, folder / "model.safetensors", metadata={"format": "pt"})
    models.from_asset(entry(), folder, head="classification")
    key = "encoder.layer.1.output.dense.weight"
    save_file({k: v for k, v in tensors.items() if k != key}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(AssetError, match=rf"lacks 1 weights of the body of 'bert': bert\.{key}"):
        models.from_asset(entry(), folder, head="classification")


def test_broken_or_foreign_weights_are_one_clear_error(asset):
    folder, _ = asset
    with pytest.raises(AssetError, match=r"model\.safetensors"):
        models.from_asset(entry(hidden_size=32), folder, head="none")
    with pytest.raises(AssetError, match="model_type 'bert', the registry 'roberta'"):
        models.from_asset(entry("roberta"), folder, head="none")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(AssetError, match=r"model\.safetensors is not a readable safetensors file"):
        models.from_asset(entry(), folder, head="none")
    (folder / "model.safetensors").unlink()
    with pytest.raises(AssetError, match="is missing"):
        models.from_asset(entry(), folder, head="none")


def test_an_image_classifier_reads_the_tower_of_a_whole_clip(tmp_path):
    from transformers import CLIPConfig, CLIPModel

    tiny = load_project(Path(__file__).resolve().parents[2]).model("smoke-clip")
    tower = models.build(tiny, head="projection").config.to_dict()
    text = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "intermediate_size": 32,
        "vocab_size": 50,
    }
    text |= {"bos_token_id": 0, "eos_token_id": 1}
    whole = CLIPModel(CLIPConfig(vision_config=tower, text_config=text, projection_dim=16)).eval()
    whole.save_pretrained(tmp_path)
    ours = models.from_asset(tiny, tmp_path, head="image", labels=4)
    images = torch.rand(2, 1, 8, 8)
    embedded = whole.visual_projection(whole.vision_model(images).pooler_output)
    assert torch.allclose(ours.clip(images).image_embeds, embedded, atol=1e-6)
    assert torch.allclose(ours(images).logits, ours.classifier(embedded), atol=1e-6)
    assert {name.split(".")[0] for name, _ in ours.named_parameters()} == {"clip", "classifier"}


def test_a_head_of_another_shape_is_drawn_and_a_body_of_another_shape_is_named(tmp_path):
    trained = models.build(entry(), head="classification", labels=3, seed=7)
    save_file({name: value.clone() for name, value in trained.state_dict().items()}, tmp_path / "model.safetensors")
    first, again, other = (
        models.from_asset(entry(), tmp_path, head="classification", labels=2, seed=seed) for seed in (1, 1, 2)
    )
    assert same(first, again)
    assert first.classifier.weight.shape == (2, 16)
    assert not torch.equal(first.classifier.weight, other.classifier.weight)
    for name, value in trained.bert.state_dict().items():
        assert torch.equal(first.bert.state_dict()[name], value), name
    kept = models.from_asset(entry(), tmp_path, head="classification", labels=3, seed=1)
    assert torch.equal(kept.classifier.weight, trained.classifier.weight)
    with pytest.raises(
        AssetError, match=r"'bert\.embeddings\.word_embeddings\.weight' is \(50, 16\), .* makes it \(60, 16\)"
    ):
        models.from_asset(entry(vocab_size=60), tmp_path, head="classification", labels=2)


@pytest.mark.parametrize("text", ["[1]", '{"model_type": "bert", "model_type": "gpt2"}', '{"hidden_size": 1e999}'])
def test_a_configuration_that_is_no_exact_json_is_named(tmp_path, text):
    trained = models.build(entry(), head="text", seed=7)
    save_file({name: value.clone() for name, value in trained.state_dict().items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(AssetError, match=r"config\.json(: corrupt, not JSON| holds no JSON object)"):
        models.from_asset(entry(), tmp_path, head="text")
