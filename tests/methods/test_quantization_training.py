"""Quantisation-aware training of whole models: what is simulated, stored in int8, packed, and run on onnxruntime."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.ao.quantization import MinMaxObserver
from transformers import BertForMaskedLM, BertForQuestionAnswering, BertForSequenceClassification

from replica import models
from replica.config.asset_schema import ModelEntry
from replica.errors import ConfigError
from replica.methods import Context
from replica.methods.pruning.masks import magnitude_mask, maskable_linears
from replica.methods.quantization.quantization_aware_training import onnx_export
from replica.methods.quantization.quantization_aware_training.quantized_linear import Int8Linear, QuantizedLinear
from replica.methods.stored import load_model, save_model

from .test_pruning_masks import batch, make, tiny, train

SIZE = {
    "vocab_size": 50,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 32,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def sparse_model(sparsity=0.9):
    entry = ModelEntry(title="tiny", architecture="bert", config=SIZE)
    model = models.build(entry, head="classification", seed=0)
    for layer in maskable_linears(model, ("classifier",)).values():
        layer.weight.data[~magnitude_mask(layer.weight, sparsity)] = 0
    return model


def trained(*methods, steps=12):
    model = sparse_model()
    context = Context(total_steps=steps)
    for method in methods:
        method.prepare(model, context)
    losses = train(model, methods, steps, torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01))
    return model.eval(), losses


def inputs():
    return {key: value for key, value in batch().items() if key != "labels"}


@torch.no_grad()
def logits(model):
    return model(**inputs()).logits


def test_every_linear_is_simulated_and_the_cards_outputs_stay_plain():
    model = tiny()
    make("quantization-aware-training").prepare(model, Context())
    plain = {n for n, m in model.named_modules() if isinstance(m, QuantizedLinear) and m.output_range is None}
    quantized = {n for n, m in model.named_modules() if isinstance(m, QuantizedLinear)}
    assert quantized == {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    assert plain == {
        f"bert.encoder.layer.{layer}.{name}"
        for layer in (0, 1)
        for name in ("attention.self.value", "attention.output.dense", "output.dense")
    } | {"classifier"}


@pytest.mark.parametrize(
    ("cls", "head"), [(BertForSequenceClassification, "classifier"), (BertForQuestionAnswering, "qa_outputs")]
)
def test_a_heads_output_is_not_put_on_a_grid(cls, head):
    """Logits on a grid of 256 values tie, and those outside the moving range are cut; released configurations leave them as they are."""
    model, method = tiny(cls), make("quantization-aware-training")
    method.prepare(model, Context())
    model(**inputs())
    model = method.finalize(model.eval())
    layer = model.get_submodule(head)
    assert isinstance(layer, Int8Linear) and layer.plain_output
    x = torch.randn(2000, layer.in_features, generator=torch.Generator().manual_seed(0))
    assert len(layer(x)[:, 0].unique()) > 256


def test_a_tied_head_is_left_alone():
    model = tiny(BertForMaskedLM)
    make("quantization-aware-training").prepare(model, Context())
    assert type(model.cls.predictions.decoder) is nn.Linear
    assert isinstance(model.cls.predictions.transform.dense, QuantizedLinear)


def test_training_lowers_the_loss_and_quantisation_starts_when_told():
    method = make("quantization-aware-training", start=0.5)
    model = tiny()
    method.prepare(model, Context(total_steps=20))
    layer = model.bert.encoder.layer[0].intermediate.dense
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    context = Context(total_steps=20)
    first = train(model, [method], 10, optimizer, context=context)
    assert not layer.active
    assert not bool(layer.input_range.observed)
    second = train(model, [method], 20, optimizer, start=10, context=context)
    assert layer.active
    assert bool(layer.input_range.observed)
    assert second[-1] < first[0]


@pytest.mark.parametrize("lock_first", [True, False])
def test_locked_zeros_are_zero_integers_in_either_order(lock_first):
    lock, quantize = make("pattern-lock"), make("quantization-aware-training")
    methods = (lock, quantize) if lock_first else (quantize, lock)
    model, losses = trained(*methods)
    assert losses[-1] < losses[0]
    simulated = logits(model)
    for method in methods:
        model = method.finalize(model)
    before = sparse_model()
    for name, layer in maskable_linears(before, ("classifier",)).items():
        stored = model.get_submodule(name)
        assert isinstance(stored, Int8Linear)
        assert not stored.weight_int8[layer.weight == 0].any()
    torch.testing.assert_close(logits(model), simulated, rtol=0, atol=0)


def test_observers_travel_with_a_checkpoint_so_that_resuming_is_bit_equal():
    def fresh():
        model = sparse_model()
        methods = [make("pattern-lock"), make("quantization-aware-training", start=0.2)]
        for method in methods:
            method.prepare(model, Context(total_steps=10))
        return model, methods, torch.optim.AdamW(model.parameters(), lr=1e-3)

    through, methods, optimizer = fresh()
    train(through, methods, 10, optimizer)
    first, methods, optimizer = fresh()
    train(first, methods, 6, optimizer, context=Context(total_steps=10))
    second, methods, resumed = fresh()
    second.load_state_dict(first.state_dict())
    resumed.load_state_dict(optimizer.state_dict())
    train(second, methods, 10, resumed, start=6)
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in through.state_dict().items())


@pytest.mark.parametrize("packed", [None, 0.1])
def test_the_file_holds_int8_and_comes_back_bit_equal(tmp_path, packed):
    fields = {} if packed is None else {"packed_density": packed}
    lock, quantize = make("pattern-lock"), make("quantization-aware-training", **fields)
    model, _ = trained(lock, quantize)
    simulated = logits(model)
    linears = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear))
    others = sum(p.numel() for p in model.parameters()) - linears
    model = quantize.finalize(lock.finalize(model))
    reference = {"name": "quantization-aware-training", **fields}
    save_model(model, tmp_path, head="classification", labels=2, structure=[reference])
    loaded, structure = load_model(tmp_path)
    assert structure == [reference]
    assert torch.equal(logits(loaded), simulated)
    stored = (tmp_path / "model.safetensors").stat().st_size
    bits = quantize.expected(model)["storage_bits"]
    assert bits == sum(8 * t.element_size() * t.numel() for t in model.state_dict().values())
    assert 0 < stored - bits / 8 < 20_000  # names and offsets
    if packed is None:
        assert bits / 8 - 4 * others < 1.01 * linears
    else:
        whole = 64 * 64 + 2 * 64  # pooler and classifier are stored whole
        assert bits / 8 - 4 * others < 1.01 * ((linears - whole) * (0.1 + 1 / 8) + whole)


def test_packing_a_dense_model_is_an_error_that_names_the_layer():
    quantize = make("quantization-aware-training", packed_density=0.05)
    model, _ = trained(quantize, steps=1)
    with pytest.raises(ConfigError, match=r"layer '.*query' has .* packed_density leaves room for 205"):
        quantize.finalize(model)


def test_a_stored_int8_model_can_be_trained_on():
    quantize = make("quantization-aware-training")
    model, _ = trained(quantize)
    model = quantize.finalize(model)
    before = logits(model)
    again = make("quantization-aware-training")
    again.prepare(model, Context(total_steps=3, restored=frozenset({"quantization-aware-training"})))
    # the largest integer is 127 on a grid that is 127.5 wide, so a matrix read back has a scale 1/255 smaller
    torch.testing.assert_close(logits(model.eval()), before, rtol=2 / 255, atol=1e-3)
    train(model, [again], 3, torch.optim.AdamW(model.parameters(), lr=1e-3))
    assert isinstance(again.finalize(model).classifier, Int8Linear)


@pytest.mark.parametrize("form", ["now", "largest"])
def test_range_of_a_weight_is_that_of_its_values_or_the_largest_so_far(form):
    """Weights grow to 2 and shrink to 1: torch's MinMaxObserver, which keeps the largest range, is the reference of `largest`."""
    model, method = tiny(), make("quantization-aware-training", weight_range=form)
    method.prepare(model, Context())
    layer, observer = (
        model.classifier,
        MinMaxObserver(torch.qint8, torch.per_tensor_symmetric, quant_min=-128, quant_max=127),
    )
    first = layer.weight.detach() / layer.weight.detach().abs().max()
    for size in (0.5, 2.0, 1.0):
        layer.weight.data.copy_(first * size)
        observer(layer.weight.detach())
        model.train()(**inputs())
    scale = observer.calculate_qparams()[0] if form == "largest" else torch.tensor([1 / 127.5])
    stored = method.finalize(model.eval()).classifier
    torch.testing.assert_close(stored.weight_scale, scale[0])
    assert torch.equal(stored.integers(), torch.round(layer.weight / scale).clamp(-128, 127).to(torch.int8))
    again = make("quantization-aware-training", weight_range=form)
    again.prepare(model, Context(restored=frozenset({"quantization-aware-training"})))
    if form == "largest":  # trained on, a stored model keeps its range too
        torch.testing.assert_close(model.classifier.largest_weight, torch.tensor(2.0))


def test_prepares_restores_and_finalizes_on_meta():
    entry = ModelEntry(title="tiny", architecture="bert", config=SIZE)
    method = make("quantization-aware-training", packed_density=0.1)
    model = models.build(entry, head="classification", device="meta")
    method.prepare(model, Context())
    expected = method.expected(model)
    with torch.device("meta"):
        assert model(torch.zeros(2, 8, dtype=torch.long)).logits.shape == (2, 2)
    model = method.finalize(model)
    assert all(tensor.is_meta for tensor in model.state_dict().values())
    assert expected == method.expected(model)


def test_onnxruntime_multiplies_integers_and_agrees(tmp_path):
    lock, quantize = make("pattern-lock"), make("quantization-aware-training")
    model, _ = trained(lock, quantize, steps=25)
    dense = copy.deepcopy(sparse_model()).eval()
    simulated = logits(model)
    model = quantize.finalize(lock.finalize(model))
    path, optimized = tmp_path / "int8.onnx", tmp_path / "optimized.onnx"
    onnx_export.export_onnx(model, batch(), path)
    onnx_export.export_onnx(dense, batch(), tmp_path / "fp32.onnx")
    opened = onnx_export.session(path, optimized=optimized)
    found = onnx_export.run(opened, inputs())["logits"]
    assert torch.equal(found.argmax(1), simulated.argmax(1))
    assert (found - simulated).abs().max() < 0.05 * simulated.abs().max()
    shorter = {key: value[:3, :6] for key, value in inputs().items()}  # any size and length
    with torch.no_grad():
        reference = model(**shorter).logits
    assert (onnx_export.run(opened, shorter)["logits"] - reference).abs().max() < 0.05 * reference.abs().max()
    counts = onnx_export.operators(optimized)
    assert sum(counts.get(name, 0) for name in onnx_export.INT8_PRODUCTS) >= 12  # six layers, twice
    saved = (tmp_path / "fp32.onnx").stat().st_size - path.stat().st_size
    linears = 2 * (4 * 64 * 64 + 2 * 64 * 128) + 64 * 64 + 64 * 2
    assert saved > 0.7 * 3 * linears  # three of four bytes a weight, less the nodes of the grids


def test_onnx_reads_a_batch_of_single_sentences(tmp_path):
    """The graph is exported with types of tokens, which the collator gives for pairs alone: absent they are zeros."""
    model = sparse_model().eval()
    tokens = {name: value for name, value in inputs().items() if name in ("input_ids", "attention_mask")}
    types = {"token_type_ids": torch.zeros_like(tokens["input_ids"])}
    onnx_export.export_onnx(model, {**tokens, **types}, tmp_path / "m.onnx")
    opened = onnx_export.session(tmp_path / "m.onnx")
    with torch.no_grad():
        wanted = model(**tokens).logits
    torch.testing.assert_close(onnx_export.run(opened, tokens)["logits"], wanted, rtol=1e-4, atol=1e-5)
    with pytest.raises(ConfigError, match="lacks input_ids"):
        onnx_export.run(opened, {"attention_mask": tokens["attention_mask"]})


def test_onnx_initializers_are_int8(tmp_path):
    import onnx

    quantize = make("quantization-aware-training")
    model, _ = trained(quantize, steps=2)
    model = quantize.finalize(model)
    onnx_export.export_onnx(model, batch(), tmp_path / "m.onnx")
    graph = onnx.load(str(tmp_path / "m.onnx")).graph
    shapes = [tuple(t.dims) for t in graph.initializer if t.data_type == onnx.TensorProto.INT8]
    assert shapes.count((64, 64)) == 2 * 4 + 1
    assert shapes.count((64, 128)) == shapes.count((128, 64)) == 2
    layer = model.bert.encoder.layer[0].intermediate.dense
    arrays = [onnx.numpy_helper.to_array(t) for t in graph.initializer if t.data_type == onnx.TensorProto.INT8]
    assert any(a.shape == (64, 128) and (a == layer.weight_int8.numpy().T).all() for a in arrays)


def test_measured_export_reports_bytes_times_and_products(tmp_path):
    quantize = make("quantization-aware-training")
    model, _ = trained(quantize, steps=2)
    found = quantize.export(quantize.finalize(model), tmp_path / "model.onnx", 2, 8)
    assert found["onnx_bytes"] == (tmp_path / "model.onnx").stat().st_size < found["onnx_fp32_bytes"]
    assert found["latency_onnx_median_ms"] > 0
    assert found["onnx_int8_products"] >= 12
    assert list(tmp_path.iterdir()) == [tmp_path / "model.onnx"]


def test_export_without_ranges_is_an_error(tmp_path):
    quantize = make("quantization-aware-training")
    model = sparse_model()
    quantize.prepare(model, Context())
    model = quantize.finalize(model)
    assert torch.isfinite(logits(model)).all()
    with pytest.raises(ConfigError, match="no input range"):
        onnx_export.export_onnx(model, batch(), tmp_path / "m.onnx")
