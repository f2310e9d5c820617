"""Parameters, FLOPs, storage, optimizer state and latency against published counts and arithmetic."""

from __future__ import annotations

import time

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from replica.errors import ConfigError
from replica.meters.flops import measure_flops
from replica.meters.optimizers import make_optimizer, optimizer_bytes
from replica.meters.options import FlopsOptions, OptimizerOptions, StorageOptions
from replica.meters.parameters import count_parameters
from replica.meters.storage import storage_bytes
from replica.meters.timing import latency

T5_BASE = {"d_model": 768, "d_ff": 3072, "num_layers": 12, "num_heads": 12, "decoder_start_token_id": 0}
LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}


def on_meta(model: str, config: str, **fields) -> nn.Module:
    import transformers

    with torch.device("meta"):
        return getattr(transformers, model)(getattr(transformers, config)(**fields))


def small_bert(device: str = "cpu") -> nn.Module:
    import transformers

    torch.manual_seed(0)
    fields = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "vocab_size": 50,
    }
    with torch.device(device):
        return transformers.BertForSequenceClassification(transformers.BertConfig(**fields, max_position_embeddings=32))


# --- parameters ---------------------------------------------------------------------------------------------------------

PUBLISHED = {
    "BERT-base": (("BertModel", "BertConfig", {}), 109_482_240),
    "BERT-large": (("BertModel", "BertConfig", LARGE), 335_141_888),
    "DistilBERT": (("DistilBertModel", "DistilBertConfig", {}), 66_362_880),
    "RoBERTa-base": (
        ("RobertaModel", "RobertaConfig", {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1}),
        124_645_632,
    ),
    "XLM-R-base": (
        (
            "XLMRobertaModel",
            "XLMRobertaConfig",
            {"vocab_size": 250002, "max_position_embeddings": 514, "type_vocab_size": 1},
        ),
        278_043_648,
    ),
    "T5-base": (("T5ForConditionalGeneration", "T5Config", T5_BASE), 222_903_552),
    "ViT-B/16": (("ViTForImageClassification", "ViTConfig", {"num_labels": 1000}), 86_567_656),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_totals_are_the_published_ones(name):
    (model, config, fields), total = PUBLISHED[name]
    counts = count_parameters(on_meta(model, config, **fields))
    assert counts["total"] == total
    assert sum(counts["by_part"].values()) == total


def test_t5_with_its_tokenizers_vocabulary_has_the_total_that_compacter_divides_by():
    """32,100 rows of embedding, as many as the tokenizer has pieces, instead of 32,128: 28 x 768 = 21,504 fewer."""
    total = count_parameters(on_meta("T5ForConditionalGeneration", "T5Config", **T5_BASE, vocab_size=32100))["total"]
    assert total == 222_903_552 - 28 * 768 == 222_882_048


@pytest.mark.parametrize(
    ("model", "config", "fields", "layers", "width"),
    [
        ("BertModel", "BertConfig", {}, 12, 768),
        ("BertForPreTraining", "BertConfig", LARGE, 24, 1024),
        ("RobertaForMaskedLM", "RobertaConfig", {}, 12, 768),
        ("DistilBertForSequenceClassification", "DistilBertConfig", {}, 6, 768),
        ("ViTForImageClassification", "ViTConfig", {}, 12, 768),
    ],
)
def test_a_layer_of_an_encoder_has_12_h2_plus_13_h_parameters(model, config, fields, layers, width):
    counts = count_parameters(on_meta(model, config, **fields))
    assert counts["transformer"] == layers * (12 * width**2 + 13 * width)
    assert counts["layer_linears"] == layers * 12 * width**2
    assert counts["layer_norms_in_layers"] == layers * 4 * width
    assert counts["layers"] == layers


def test_bert_for_pretraining_counts_its_parts_once():
    """The decoder of the language-model head is the word embedding; its bias, the transform and the next-sentence layer are head."""
    counts = count_parameters(on_meta("BertForPreTraining", "BertConfig"))
    assert counts["word_embeddings"] == 30522 * 768
    assert counts["embeddings"] == (30522 + 512 + 2) * 768 + 2 * 768
    assert counts["pooler"] == 768**2 + 768
    assert counts["head"] == 30522 + (768**2 + 768) + 2 * 768 + (2 * 768 + 2)
    assert counts["layer_norms"] == (2 * 12 + 2) * 2 * 768


def test_t5_layers_split_into_encoder_and_decoder():
    counts = count_parameters(on_meta("T5ForConditionalGeneration", "T5Config", **T5_BASE))
    attention, inner, bias = 4 * 768**2, 2 * 768 * 3072, 32 * 12
    assert counts["encoder"] == 12 * (attention + inner + 2 * 768) + bias
    assert counts["decoder"] == 12 * (2 * attention + inner + 3 * 768) + bias
    assert counts["layer_norms"] == 62 * 768  # 24 in the encoder, 36 in the decoder, two final
    assert counts["final_norms"] == 2 * 768
    assert counts["head"] == 0


def test_trainable_share_follows_what_is_frozen():
    model = small_bert("meta")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("bias" in name)
    counts = count_parameters(model)
    assert counts["trainable"] == sum(p.numel() for n, p in model.named_parameters() if "bias" in n)
    assert counts["trainable_share"] == counts["trainable"] / counts["total"]
    assert counts["trainable_by_part"]["layer_linears"] == 0


# --- FLOPs --------------------------------------------------------------------------------------------------------------


def test_bert_base_flops_are_those_of_the_hand_formula():
    """Layers: 2 L l 12 H^2 for the matrices and 4 L l^2 H for the two attention products; pooler: 2 H^2."""
    found = measure_flops(on_meta("BertModel", "BertConfig"), FlopsOptions(batch=1, length=128))
    linears, products, pooler = 2 * 12 * 128 * 12 * 768**2, 4 * 12 * 128**2 * 768, 2 * 768**2
    assert found["transformer_linear_forward"] == linears
    assert found["attention_forward"] == products
    assert found["pooler_forward"] == pooler
    assert found["forward"] == linears + products + pooler == 2 * found["macs_forward"]
    assert found["transformer_forward"] == pytest.approx(22.35e9, rel=1e-3)


def test_flops_grow_with_the_batch_and_half_the_layers_cost_half():
    full = measure_flops(on_meta("BertModel", "BertConfig"), FlopsOptions(batch=4, length=64))
    half = measure_flops(on_meta("BertModel", "BertConfig", num_hidden_layers=6), FlopsOptions(batch=2, length=64))
    assert full["transformer_forward"] == 4 * half["transformer_forward"]


def test_backward_costs_twice_the_products_of_the_layers():
    found = measure_flops(
        on_meta("BertForSequenceClassification", "BertConfig"), FlopsOptions(batch=2, length=32, backward=True)
    )
    assert found["transformer_backward"] == 2 * found["transformer_forward"]
    assert found["head_backward"] == 2 * found["head_forward"] == 2 * 2 * 2 * 2 * 768
    assert found["total"] == found["forward"] + found["backward"]


def test_frozen_matrices_cost_no_weight_gradient():
    """With only the head trained, nothing below it is differentiated: the head's weight gradient is all of the backward pass."""
    model = on_meta("BertForSequenceClassification", "BertConfig", num_labels=2)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("classifier"))
    found = measure_flops(model, FlopsOptions(batch=2, length=32, backward=True))
    assert found["backward"] == 2 * 2 * 2 * 768
    for parameter in model.bert.encoder.layer[11].output.dense.parameters():
        parameter.requires_grad_(True)
    found = measure_flops(model, FlopsOptions(batch=2, length=32, backward=True))
    pooler, head = 2 * 2 * 768**2, 2 * 2 * 2 * 768
    assert found["backward"] == 2 * head + pooler + 2 * 2 * 32 * 768 * 3072


def test_t5_flops_by_hand_with_a_short_decoder():
    source, target, width, inner, heads_width = 128, 8, 768, 3072, 768
    found = measure_flops(
        on_meta("T5ForConditionalGeneration", "T5Config", **T5_BASE),
        FlopsOptions(batch=1, length=source, decoder_length=target, backward=True),
    )
    attention, feed = 4 * width * heads_width, 2 * width * inner
    encoder = 12 * 2 * source * (attention + feed)
    decoder = 12 * 2 * (target * (attention + feed) + 2 * target * width**2 + 2 * source * width**2)
    products = 12 * 4 * heads_width * (source**2 + target**2 + target * source)
    head = 2 * target * width * 32128
    assert found["transformer_linear_forward"] == encoder + decoder
    assert found["attention_forward"] == products
    assert found["head_forward"] == head
    assert found["forward"] == encoder + decoder + products + head
    assert found["transformer_backward"] == 2 * found["transformer_forward"]
    assert found["head_backward"] == 2 * head


def test_vit_counts_its_patches_as_embeddings():
    found = measure_flops(on_meta("ViTForImageClassification", "ViTConfig"), FlopsOptions(batch=1))
    assert found["embeddings_forward"] == 2 * 196 * 768 * (3 * 16 * 16)
    assert found["transformer_linear_forward"] == 2 * 12 * 197 * 12 * 768**2


def test_density_scales_the_matrices_of_the_layers_only():
    model = on_meta("BertModel", "BertConfig")
    found = measure_flops(model, FlopsOptions(batch=1, length=128, density=0.1))
    linears = found["transformer_linear_forward"]
    assert found["sparse_forward"] == pytest.approx(found["forward"] - 0.9 * linears)
    inner = measure_flops(model, FlopsOptions(batch=1, length=128, density={"*.intermediate.dense.weight": 0.5}))
    assert inner["sparse_forward"] == pytest.approx(inner["forward"] - 0.5 * 12 * 2 * 128 * 4 * 768**2)
    with pytest.raises(ConfigError, match="did you mean 'layer_linears'"):
        measure_flops(model, FlopsOptions(density={"layer_linear": 0.5}))


# --- storage ------------------------------------------------------------------------------------------------------------


def test_int8_and_90_percent_sparsity_give_the_ratios_of_prune_once_for_all():
    """40x of values only; with fp32 biases and norms 12 H^2 x 32 + 13 H x 32 over 12 H^2 x 0.8 + 13 H x 32."""
    options = {"bits": 8, "density": 0.1, "index": "mask"}
    for fields, width, with_rest in (({}, 768, 37.92), (LARGE, 1024, 38.42)):
        found = storage_bytes(on_meta("BertModel", "BertConfig", **fields), StorageOptions(**options))
        linear, rest = 12 * width**2, 13 * width
        assert found["values_only_ratio"] == pytest.approx(40)
        assert found["with_rest_ratio"] == pytest.approx(with_rest, abs=0.005)
        assert found["with_rest_ratio"] == pytest.approx(32 * (linear + rest) / (0.8 * linear + 32 * rest))
        assert found["with_mask_ratio"] == pytest.approx(32 / 1.8)
        assert found["transformer_bytes"] == pytest.approx(
            fields.get("num_hidden_layers", 12) * (1.8 * linear + 32 * rest) / 8
        )


def test_one_bit_bert_needs_15_mib_against_418():
    """1 bit for word embedding, matrices of the layers and pooler; 32 for positions, types, norms and biases (BiPFT's card)."""
    bits = {"word_embeddings": 1, "layer_linears": 1, "pooler.dense.weight": 1}
    found = storage_bytes(on_meta("BertModel", "BertConfig"), StorageOptions(bits=bits))
    assert found["baseline_mib"] == pytest.approx(417.64, abs=0.005)
    assert found["mib"] == pytest.approx(14.96, abs=0.005)
    assert found["ratio"] == pytest.approx(27.91, abs=0.01)
    rows = storage_bytes(
        on_meta("BertModel", "BertConfig"),
        StorageOptions(bits=bits, scales={"word_embeddings": "row", "layer_linears": "tensor"}),
    )
    assert rows["bytes"] - found["bytes"] == 4 * (30522 + 72)


def test_what_is_left_out_counts_on_neither_side():
    model = on_meta("BertModel", "BertConfig")
    found = storage_bytes(model, StorageOptions(exclude=["word_embeddings", "pooler*"]))
    assert found["baseline_bytes"] == found["bytes"] == 4 * (109_482_240 - 30522 * 768 - 768**2 - 768)


@pytest.mark.parametrize(
    "options", [{"density": 0.0}, {"index": "coo"}, {"scales": {"pooler": "column"}}, {"bits": {"encoder": 1}}]
)
def test_wrong_storage_options_are_errors(options):
    with pytest.raises((ConfigError, ValidationError), match=r"storage|Options"):
        storage_bytes(small_bert(), StorageOptions(**{"density": 0.5, **options}))


# --- optimizer state ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["adamw", "sgd", "adafactor", "lion", "adamw8bit"])
def test_optimizer_bytes_are_those_of_real_state(rule):
    model = small_bert()
    model.bert.embeddings.requires_grad_(False)
    optimizer = make_optimizer(rule, [p for p in model.parameters() if p.requires_grad])
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
    optimizer.step()
    tensors = [
        v for state in optimizer.state.values() for k, v in state.items() if isinstance(v, torch.Tensor) and k != "step"
    ]
    assert optimizer_bytes(model, OptimizerOptions(rule=rule))["bytes"] == sum(
        t.numel() * t.element_size() for t in tensors
    )


def test_eight_bit_adam_saves_three_quarters_of_bert_large():
    """Two bytes and 8 bytes of scales a block of 2,048 against eight bytes; only small tensors stay: 0.2504 plus their share."""
    model = on_meta("BertModel", "BertConfig", **LARGE)
    found = optimizer_bytes(model, OptimizerOptions(rule="adamw8bit"))
    small = sum(p.numel() for p in model.parameters() if p.numel() < 4096)
    large = count_parameters(model)["total"] - small
    assert found["saving"] == pytest.approx(1 - (large * (2 + 8 / 2048) + 8 * small) / (8 * (large + small)), rel=1e-4)
    assert found["saving"] == pytest.approx(0.749, abs=0.001)


def test_sgd_without_momentum_keeps_nothing_and_unknown_rules_are_errors():
    assert optimizer_bytes(small_bert(), OptimizerOptions(rule="sgd", momentum=0.0))["bytes"] == 0
    with pytest.raises(ValidationError, match="rule"):
        OptimizerOptions(rule="adamv")


# --- latency ------------------------------------------------------------------------------------------------------------


def test_latency_of_a_callable_is_at_least_what_it_waits():
    found = latency(lambda: time.sleep(0.01), batch=4, warmup=1, repeats=5)
    assert 10 <= found["p10_ms"] <= found["median_ms"] <= found["p90_ms"]
    assert found["samples_per_second"] == pytest.approx(4000 / found["median_ms"])
    assert found["runs"] == 5


def test_latency_of_a_model_leaves_its_mode():
    model = small_bert().train()
    found = latency(model, 2, 8, warmup=1, repeats=3)
    assert found["median_ms"] > 0
    assert found["threads"] == torch.get_num_threads()
    assert model.training
    with pytest.raises(ValueError, match="meta"):
        latency(small_bert("meta"))
