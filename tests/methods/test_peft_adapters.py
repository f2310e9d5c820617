"""Adapters in models: counts at T5-base's size, places, what is trained, sharing of A, storing and learning."""

from __future__ import annotations

import copy

import pytest
import torch

from replica.errors import ConfigError
from replica.methods import Context, parse
from replica.methods.stored import load_model, save_model
from replica.models.sublayers import sublayer_outputs
from tests.methods.peft_models import batch, prepared, tiny, train

SMALL = {"reduction": 4}
ADAPTERS = [
    {"name": "compacter", **SMALL},
    {"name": "compacter", "places": "feed-forward", **SMALL},
    {"name": "phm-adapter", "n": 4, **SMALL},
    {"name": "adapter", **SMALL},
    {"name": "adapter-drop", "skip_layers": 1, **SMALL},
    {"name": "adapter-lowrank", **SMALL},
]
OTHERS = ["bitfit", "layer-norm-tuning"]


def t5_base():
    """T5 v1.0 base with the 32,100 pieces of its tokenizer, on meta."""
    from transformers import T5Config, T5ForConditionalGeneration

    with torch.device("meta"):
        return T5ForConditionalGeneration(
            T5Config(
                vocab_size=32100, d_model=768, d_kv=64, d_ff=3072, num_layers=12, num_decoder_layers=12, num_heads=12
            )
        )


def trainable(model) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_t5_base_with_its_tokenizers_vocabulary_has_the_papers_total():
    assert sum(p.numel() for p in t5_base().parameters()) == 222_882_048


# Printed by the paper or counted from its formulas: norms 62 x 768 = 47,616; a hypercomplex adapter 2,376; a full one 37,656.
NORMS = 62 * 768


@pytest.mark.parametrize(
    ("reference", "adapters", "count", "printed"),
    [
        ({"name": "compacter", "places": "feed-forward"}, 24, 24 * 2_376 + 64 + NORMS, "0.047"),
        ({"name": "compacter"}, 48, 48 * 2_376 + 64 + NORMS, "0.073"),
        ({"name": "phm-adapter"}, 48, 48 * (2 * 12**3 + 2 * 12 * 64 * 2 + 24 + 768) + NORMS, "0.179"),
        ({"name": "adapter"}, 48, 48 * 37_656 + NORMS, "0.832"),
        ({"name": "adapter", "places": "attention"}, 24, 24 * 37_656 + NORMS, "0.427"),
        ({"name": "adapter-drop"}, 28, 28 * 37_656 + NORMS, "0.494"),
        ({"name": "adapter-lowrank"}, 48, 48 * 2_376 + NORMS, "0.073"),
        # q, k, v, o 768 each, wi 3,072, wo 768, a norm for each sublayer (5 a layer pair), and the output layer's pieces
        (
            {"name": "bitfit"},
            0,
            12 * (4 * 768 + 3072 + 768) + 12 * (8 * 768 + 3072 + 768) + 12 * 5 * 768 + 32_100,
            "0.126",
        ),
        ({"name": "prompt-tuning"}, 0, 100 * 768, "0.034"),
        ({"name": "intrinsic-said"}, 0, 20_000, "0.009"),
        ({"name": "lora", "rank": 4}, 0, 36 * 2 * 4 * (768 + 768), "0.198"),
        ({"name": "layer-norm-tuning"}, 0, NORMS, "0.021"),
    ],
    ids=lambda value: value["name"] + "-" + value.get("places", "") if isinstance(value, dict) else None,
)
def test_trained_parameters_of_t5_base(reference, adapters, count, printed):
    entry, config = parse(reference)
    model, method = t5_base(), entry.create(config)
    method.prepare(model, Context(head="text2text"))
    assert trainable(model) == count
    assert method.expected(model) == {"trainable_parameters": count}
    assert f"{100 * count / 222_882_048:.3f}" == printed
    assert sum(name.endswith(".adapter") for name, _ in model.named_modules()) == adapters
    assert not any("EncDecAttention.o.adapter" in name for name, _ in model.named_modules())
    assert not model.lm_head.weight.requires_grad


def test_output_layer_is_trained_when_asked_for():
    entry, config = parse({"name": "adapter", "output_layer": True})
    model, method = t5_base(), entry.create(config)
    method.prepare(model, Context(head="text2text"))
    assert trainable(model) == 1_855_104 + 32_100 * 768
    assert method.expected(model)["trainable_parameters"] == trainable(model)


def test_counts_named_in_the_paper():
    counts = {}
    for name, reference in {
        "compacter": {"name": "compacter"},
        "compacter++": {"name": "compacter", "places": "feed-forward"},
        "phm": {"name": "phm-adapter"},
        "adapter": {"name": "adapter"},
        "pfeiffer": {"name": "adapter", "places": "attention"},
        "drop": {"name": "adapter-drop"},
    }.items():
        entry, config = parse(reference)
        model = t5_base()
        entry.create(config).prepare(model, Context(head="text2text"))
        counts[name] = trainable(model)
    assert counts == {
        "compacter": 161_728,
        "compacter++": 104_704,
        "phm": 398_976,
        "adapter": 1_855_104,
        "pfeiffer": 951_360,
        "drop": 1_101_984,
    }


@pytest.mark.parametrize("kind", ["bert", "roberta", "t5"])
@pytest.mark.parametrize("reference", ADAPTERS, ids=lambda r: r["name"] + r.get("places", ""))
def test_expected_count_is_that_of_the_real_tensors(reference, kind):
    model, method = prepared(reference, kind)
    assert method.expected(model)["trainable_parameters"] == trainable(model)


@pytest.mark.parametrize("kind", ["bert", "roberta", "t5"])
@pytest.mark.parametrize("name", ["compacter", "phm-adapter", "adapter", "adapter-drop"])
def test_model_starts_near_the_model_without_adapters(name, kind):
    options = {"phm-adapter": {"n": 4}, "adapter-drop": {"skip_layers": 1}}.get(name, {})
    model, _ = prepared({"name": name, **SMALL, **options}, kind)
    with torch.no_grad():
        ours, plain = model(**batch(kind)).logits, tiny(kind)(**batch(kind)).logits
    assert not torch.equal(ours, plain)
    assert (ours - plain).abs().max() < 0.02 * plain.abs().max()


def test_adapter_acts_on_the_sublayers_output_before_residual_and_norm():
    model, _ = prepared({"name": "adapter", "initial_std": 0.5, "bottleneck": 3}, "bert")
    layer = model.bert.encoder.layer[0]
    hidden, inner = torch.randn(2, 4, 32), torch.randn(2, 4, 64)
    out = layer.output
    y = torch.nn.functional.linear(inner, out.dense.weight, out.dense.bias)
    y = y + out.dense.adapter.up(out.dense.adapter.activation(out.dense.adapter.down(y)))
    torch.testing.assert_close(out(inner, hidden), out.LayerNorm(y + hidden))


class _PfeifferOutput(torch.nn.Module):
    """BERT's feed-forward output written out with an adapter that reads the first of two passes through the layer norm."""

    def __init__(self, output):
        super().__init__()
        self.weights = copy.deepcopy(output.state_dict())
        self.rate = output.dropout.p

    def forward(self, inner, residual):
        functional, w = torch.nn.functional, self.weights
        sizes, scale, shift = residual.shape[-1:], w["LayerNorm.weight"], w["LayerNorm.bias"]
        x = functional.dropout(inner @ w["dense.weight"].T + w["dense.bias"], self.rate)
        read = functional.layer_norm(x + residual, sizes, scale, shift, 1e-12)
        down = read @ w["dense.adapter.down.weight"].T + w["dense.adapter.down.bias"]
        up = (down * torch.sigmoid(down)) @ w["dense.adapter.up.weight"].T + w["dense.adapter.up.bias"]
        return functional.layer_norm(up + x + residual, sizes, scale, shift, 1e-12)


PFEIFFER = {
    "name": "adapter",
    "places": "feed-forward",
    "input": "normed",
    "activation": "swish",
    "initial_std": 0.5,
    "bottleneck": 3,
}


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_pfeiffers_adapter_reads_the_norm_of_the_sum_and_adds_before_it(kind):
    model, _ = prepared(PFEIFFER, kind)
    plain, _ = prepared({**PFEIFFER, "input": "output"}, kind)
    hidden, inner = torch.randn(2, 4, 32), torch.randn(2, 4, 64)
    for layer, other in zip(model.base_model.encoder.layer, plain.base_model.encoder.layer, strict=True):
        out = copy.deepcopy(layer.output).train()  # a copy's norm reads the copy's adapter
        out.dropout.p = 0.3
        with torch.no_grad():
            out.dense.adapter.up.bias.normal_()
            out.LayerNorm.weight.normal_()
        written = _PfeifferOutput(out)
        torch.manual_seed(5)
        ours = out(inner, hidden)
        torch.manual_seed(5)
        torch.testing.assert_close(ours, written(inner, hidden), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(layer.output(inner, hidden), other.output(inner, hidden), atol=1e-2)
    assert model.state_dict().keys() == plain.state_dict().keys()


def test_pfeiffers_adapter_learns_and_is_stored(tmp_path):
    model, _ = prepared({**PFEIFFER, "initial_std": 0.02}, "bert")
    losses = train(model, "bert", 20, 1e-2)
    assert losses[-1] < losses[0]
    save_model(model, tmp_path, head="classification", labels=2, structure=[PFEIFFER])
    loaded, _ = load_model(tmp_path)
    torch.testing.assert_close(loaded.eval()(**batch("bert")).logits, model.eval()(**batch("bert")).logits)


@pytest.mark.parametrize("kind", ["bert", "t5"])
@pytest.mark.parametrize("reference", [*ADAPTERS, *OTHERS], ids=str)
def test_only_the_intended_parameters_change_in_a_step(reference, kind):
    model, _ = prepared(reference, kind)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train(model, kind, 1, 1e-2)
    after = model.state_dict()
    norms = {
        f"{name}.{inner}"
        for name, module in model.named_modules()
        if "norm" in type(module).__name__.lower()
        for inner, _ in module.named_parameters()
    }
    for name, value in before.items():
        own = ".adapter." in name or name.endswith("hypercomplex_rule.weight")
        if reference == "bitfit":
            intended = name.endswith(".bias") or name == "classifier.weight"
        else:
            intended = own or name in norms or name.startswith("classifier.")
        if not intended:
            assert torch.equal(value, after[name]), name
    assert any(not torch.equal(before[name], after[name]) for name in norms)
    assert "classifier.weight" not in before or not torch.equal(before["classifier.weight"], after["classifier.weight"])


def test_all_adapters_share_one_storage_and_one_gradient_of_the_rule():
    model, _ = prepared({"name": "compacter", **SMALL}, "t5")
    layers = [
        layer for place in sublayer_outputs(model) for layer in (place.module.adapter.down, place.module.adapter.up)
    ]
    assert len(layers) == 2 * 8
    assert len({layer.rule.data_ptr() for layer in layers}) == 1
    assert [name for name, _ in model.named_parameters() if "rule" in name] == ["hypercomplex_rule.weight"]
    for adapter in {id(layer): layer for layer in layers}.values():
        torch.nn.init.normal_(adapter.left)
    torch.nn.init.normal_(model.hypercomplex_rule.weight, std=0.1)
    model(**batch("t5")).loss.backward()
    together = model.hypercomplex_rule.weight.grad.clone()
    # The gradient of the shared A is the sum of the gradients of the layers' own copies.
    own = []
    for layer in layers:
        rule = copy.deepcopy(model.hypercomplex_rule)
        rule.weight.grad = None
        layer._shared = (rule,)
        own.append(rule)
    model.zero_grad()
    model(**batch("t5")).loss.backward()
    torch.testing.assert_close(sum(rule.weight.grad for rule in own), together)


def test_a_copied_model_has_a_rule_of_its_own():
    model, _ = prepared({"name": "compacter", **SMALL}, "bert")
    twin = copy.deepcopy(model)
    assert twin.bert.encoder.layer[0].output.dense.adapter.down.rule is twin.bert.hypercomplex_rule.weight
    assert twin.bert.hypercomplex_rule.weight is not model.bert.hypercomplex_rule.weight
    torch.nn.init.normal_(twin.bert.hypercomplex_rule.weight)
    with torch.no_grad():
        assert not torch.allclose(twin(**batch("bert")).logits, model(**batch("bert")).logits)


@pytest.mark.parametrize("kind", ["bert", "roberta", "t5"])
@pytest.mark.parametrize("reference", [*ADAPTERS, "bitfit", {"name": "prompt-tuning", "tokens": 5}], ids=str)
def test_stored_model_is_loaded_equal(reference, kind, tmp_path):
    model, method = prepared(reference, kind)
    train(model, kind, 2, 1e-2)
    model = method.finalize(model)
    head = "text2text" if kind == "t5" else "classification"
    structure = [{"name": reference} if isinstance(reference, str) else reference]
    save_model(model, tmp_path, head=head, labels=2, structure=structure)
    from safetensors.torch import load_file

    assert sum("rule" in name for name in load_file(tmp_path / "model.safetensors")) == (
        1
        if structure[0]["name"] == "compacter"
        else 8 * 2
        if structure == [ADAPTERS[2]] and kind == "t5"
        else 8
        if structure == [ADAPTERS[2]]
        else 0
    )
    loaded, found = load_model(tmp_path)
    assert found == structure
    with torch.no_grad():
        assert torch.equal(loaded(**batch(kind)).logits, model.eval()(**batch(kind)).logits)
    entry, config = parse(structure[0])
    again = entry.create(config)
    again.prepare(loaded, Context(head=head, restored=frozenset({entry.name})))
    assert trainable(loaded) == trainable(model)
    with torch.no_grad():
        assert torch.equal(loaded(**batch(kind)).logits, model(**batch(kind)).logits)


def test_stored_adapters_go_with_the_body_under_another_head(tmp_path):
    model, _ = prepared({"name": "compacter", **SMALL}, "bert")
    torch.nn.init.normal_(model.bert.hypercomplex_rule.weight)
    save_model(model, tmp_path, head="classification", labels=2, structure=[{"name": "compacter", **SMALL}])
    tagger, _ = load_model(tmp_path, head="tagging", labels=3)
    assert torch.equal(tagger.bert.hypercomplex_rule.weight, model.bert.hypercomplex_rule.weight)
    with torch.no_grad():
        inputs = {key: value for key, value in batch("bert").items() if key != "labels"}
        states = [m.bert(**inputs).last_hidden_state for m in (tagger, model)]
    assert torch.equal(*states)


@pytest.mark.parametrize("kind", ["bert", "t5"])
@pytest.mark.parametrize("reference", [*ADAPTERS, *OTHERS], ids=str)
def test_a_few_steps_lower_the_loss(reference, kind):
    model, _ = prepared(reference, kind)
    losses = train(model, kind, 10, 1e-2)
    assert losses[-1] < 0.95 * losses[0]


def test_seed_decides_the_initial_values():
    first, again, other = (prepared({"name": "compacter", **SMALL}, "bert", seed)[0].state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    left = "bert.encoder.layer.0.output.dense.adapter.down.left"
    assert not torch.equal(first[left], other[left])


@pytest.mark.parametrize("kind", ["bert", "t5"])
def test_adapters_can_follow_the_self_attention_alone(kind):
    model, method = prepared({"name": "adapter", "places": "attention", **SMALL}, kind)
    held = {name for name, _ in model.named_modules() if name.endswith(".adapter")}
    part = "SelfAttention.o" if kind == "t5" else "attention.output.dense"
    assert len(held) == (4 if kind == "t5" else 2) and all(f"{part}.adapter" in name for name in held)
    assert method.expected(model)["trainable_parameters"] == trainable(model)


def test_adapter_drop_leaves_the_first_layers_alone():
    model, _ = prepared({"name": "adapter-drop", "skip_layers": 1, **SMALL}, "t5")
    held = {name.split(".layer")[0] for name, _ in model.named_modules() if name.endswith(".adapter")}
    assert held == {"encoder.block.1", "decoder.block.1"}


def test_pfeiffers_adapter_needs_a_norm_after_the_sublayer():
    with pytest.raises(ConfigError, match="norm after each sublayer, which architecture 't5'"):
        prepared(PFEIFFER, "t5")


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ({"name": "compacter", "n": 5}, "must divide the hidden size 32"),
        ({"name": "compacter", "bottleneck": 6}, "bottleneck 6"),
        ({"name": "adapter-drop"}, "leaves no layer"),
        ({"name": "adapter", "activation": "gelu_nw"}, "did you mean"),
    ],
)
def test_configurations_that_do_not_fit_say_why(reference, says):
    with pytest.raises(ConfigError, match=says):
        prepared(reference, "bert")


def test_two_adapter_methods_in_one_model_are_an_error():
    model, _ = prepared({"name": "adapter", **SMALL}, "bert")
    entry, config = parse("adapter-lowrank")
    with pytest.raises(ConfigError, match="adapters already"):
        entry.create(config).prepare(model, Context())


@pytest.mark.parametrize("times", [1, 2])
def test_xavier_start_is_refused_where_it_would_draw_no_first_layer(times):
    """Two layers of zeros never learn: the first is told from the second by its more inputs."""
    width = tiny("bert").config.hidden_size
    model, _ = prepared({"name": "adapter", "bottleneck": width // 2, "start": "xavier"}, "bert")
    drawn = {name: bool(p.any()) for name, p in model.named_parameters() if ".adapter." in name and "weight" in name}
    assert drawn and all(value == (".down." in name) for name, value in drawn.items())
    with pytest.raises(ConfigError, match="`start: xavier` needs a bottleneck below the width"):
        prepared({"name": "adapter", "bottleneck": times * width, "start": "xavier"}, "bert")
