"""A stored model comes back equal, with its methods' modules, its tied weights and its packed integers."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from replica import models
from replica.errors import AssetError
from replica.files import read_json
from replica.methods import Method
from replica.methods.stored import load_model, save_model
from replica.models.heads import HEADS
from tests.unit.small_models import entry, same

INPUTS = {"input_ids": torch.tensor([[2, 5, 9, 3]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}


class PackedLinear(nn.Module):
    """A linear layer in 8-bit integers with one scale, and a parameter of its own."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        scale = linear.weight.detach().abs().max() / 127
        self.register_buffer("codes", (linear.weight.detach() / scale).round().to(torch.int8))
        self.register_buffer("scale", scale.reshape(1))
        self.bias = nn.Parameter(linear.bias.detach().clone())
        self.gate = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.gate * nn.functional.linear(x, self.codes.to(x.dtype) * self.scale, self.bias)


class Packed(Method):
    """A persistent method: the first linear layer of every layer's feed-forward part is packed."""

    def prepare(self, model, context):
        for layer in models.encoder_layers(model):
            layer.intermediate.dense = PackedLinear(layer.intermediate.dense)

    def restore(self, model):
        self.prepare(model, None)


@pytest.mark.parametrize("head", [h for h in HEADS if h not in ("text2text", "image")])
def test_every_head_comes_back_equal(head, tmp_path):
    model = models.build(entry(), head=head, labels=3, seed=5)
    save_model(model, tmp_path, head=head, labels=3, structure=[])
    loaded, structure = load_model(tmp_path)
    assert structure == []
    assert same(model, loaded)
    assert torch.equal(model(**INPUTS)[0], loaded(**INPUTS)[0])


@pytest.mark.parametrize(
    ("architecture", "head"), [("t5", "text2text"), ("vit", "image"), ("distilbert", "mlm"), ("roberta", "mlm")]
)
def test_every_architecture_comes_back_equal(architecture, head, tmp_path):
    model = models.build(entry(architecture), head=head, labels=3, seed=5)
    save_model(model, tmp_path, head=head, labels=3, structure=[])
    assert same(model, load_model(tmp_path)[0])


def test_tied_weights_are_stored_once_and_are_tied_again(tmp_path):
    model = models.build(entry(), head="mlm", seed=1)
    save_model(model, tmp_path, head="mlm", labels=2, structure=[])
    assert read_json(tmp_path / "model.json")["tied"] == {
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    }
    loaded, _ = load_model(tmp_path)
    assert loaded.cls.predictions.decoder.weight is loaded.bert.embeddings.word_embeddings.weight


def test_weights_that_were_untied_are_not_tied_silently(tmp_path):
    model = models.build(entry(), head="mlm", seed=1)
    model.cls.predictions.decoder.weight = nn.Parameter(torch.randn_like(model.cls.predictions.decoder.weight))
    save_model(model, tmp_path, head="mlm", labels=2, structure=[])
    with pytest.raises(AssetError, match="ties it to another"):
        load_model(tmp_path)


def test_a_persistent_method_restores_its_modules_and_packed_tensors(tmp_path):
    model = models.build(entry(), head="classification", labels=3, seed=2)
    Packed(None).prepare(model, None)
    with torch.no_grad():
        models.encoder_layers(model)[0].intermediate.dense.gate.fill_(0.5)
    structure = [{"name": "packed", "bits": 8}]
    save_model(model, tmp_path, head="classification", labels=3, structure=structure)
    loaded, found = load_model(tmp_path, methods={"packed": Packed(None)})
    assert found == structure
    assert same(model, loaded)
    assert loaded.bert.encoder.layer[0].intermediate.dense.codes.dtype == torch.int8
    assert torch.equal(model.eval()(**INPUTS).logits, loaded(**INPUTS).logits)
    tagged, _ = load_model(tmp_path, head="tagging", labels=4, seed=9, methods={"packed": Packed(None)})
    assert torch.equal(
        tagged.bert.encoder.layer[1].intermediate.dense.codes, model.bert.encoder.layer[1].intermediate.dense.codes
    )
    assert tagged.classifier.out_features == 4


def test_without_its_method_the_file_does_not_fit(tmp_path):
    model = models.build(entry(), head="classification", seed=2)
    Packed(None).prepare(model, None)
    save_model(model, tmp_path, head="classification", labels=2, structure=[])
    with pytest.raises(AssetError, match=r"model\.safetensors does not fit"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("stored", "wanted"),
    [("mlm", "classification"), ("pretraining", "span"), ("none", "tagging"), ("classification", "none")],
)
def test_another_head_takes_the_body_and_draws_the_rest(stored, wanted, tmp_path):
    model = models.build(entry(), head=stored, labels=2, seed=1)
    save_model(model, tmp_path, head=stored, labels=2, structure=[])
    loaded, _ = load_model(tmp_path, head=wanted, labels=5, seed=11)
    for (name, a), (_, b) in zip(
        models.body(model).encoder.named_parameters(), models.body(loaded).encoder.named_parameters(), strict=True
    ):
        assert torch.equal(a, b), name
    fresh = models.build(entry(), head=wanted, labels=5, seed=11)
    head = "qa_outputs" if wanted == "span" else "classifier"
    if wanted != "none":
        assert torch.equal(loaded.get_submodule(head).weight, fresh.get_submodule(head).weight)


def test_the_same_head_with_other_labels_is_drawn_anew(tmp_path):
    model = models.build(entry(), head="classification", labels=2, seed=1)
    save_model(model, tmp_path, head="classification", labels=2, structure=[])
    loaded, _ = load_model(tmp_path, labels=7)
    assert loaded.classifier.out_features == 7
    assert torch.equal(model.bert.pooler.dense.weight, loaded.bert.pooler.dense.weight)


def test_t5_keeps_its_body_under_another_head(tmp_path):
    model = models.build(entry("t5"), head="text2text", seed=1)
    save_model(model, tmp_path, head="text2text", labels=2, structure=[])
    loaded, _ = load_model(tmp_path, head="text")
    assert torch.equal(model.shared.weight, loaded.shared.weight)
    assert torch.equal(model.decoder.final_layer_norm.weight, loaded.decoder.final_layer_norm.weight)


def test_a_corrupt_or_missing_file_is_named(tmp_path):
    model = models.build(entry(), head="none")
    save_model(model, tmp_path, head="none", labels=2, structure=[])
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(AssetError, match=str(weights)):
        load_model(tmp_path)
    weights.write_bytes(b"not a tensor file")
    with pytest.raises(AssetError, match=str(weights)):
        load_model(tmp_path)
    (tmp_path / "model.json").write_text("{", encoding="utf-8")
    with pytest.raises(AssetError, match=r"model\.json: corrupt, not JSON"):
        load_model(tmp_path)
    (tmp_path / "model.json").unlink()
    with pytest.raises(AssetError, match=r"model\.json is missing"):
        load_model(tmp_path)


@pytest.mark.parametrize("key, value", [("tied", ["a"]), ("labels", True), ("config", None), ("structure", {})])
def test_a_description_of_wrong_types_is_named(tmp_path, key, value):
    save_model(models.build(entry(), head="none"), tmp_path, head="none", labels=2, structure=[])
    description = {**json.loads((tmp_path / "model.json").read_text(encoding="utf-8")), key: value}
    (tmp_path / "model.json").write_text(json.dumps(description), encoding="utf-8")
    with pytest.raises(AssetError, match=rf"model\.json: `{key}` is .*, which is no"):
        load_model(tmp_path)
