"""CLIP-BART and what VL-Adapter trains in it: counts by hand, the model against BART, adapters by task, hypernetworks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers.activations import ACT2FN

from replica import models
from replica.config import load_project
from replica.config.asset_schema import ModelEntry
from replica.config.schema import Measurement
from replica.errors import AssetError, ConfigError
from replica.measure.structural import measure
from replica.methods import Context, parse
from replica.methods.peft.layers import select_task
from replica.models.sublayers import sublayer_outputs

PROJECT = load_project(Path(__file__).resolve().parents[2])
#: BART base with 200 more words, and the projection: 2048 -> 768 and 5 -> 768 with biases and norms, two images.
BART = 139_420_416 + 200 * 768
PROJECTION = (2048 * 768 + 768 + 2 * 768) + (5 * 768 + 768 + 2 * 768) + 2 * 768
NORMS = (6 * 2 + 6 * 3 + 2) * 2 * 768
DOWN, UP = 768 * 96 + 96, 96 * 768 + 768
PLACES = 6 * 2 + 6 * 3
ADAPTER = {"reduction": 8, "cross_attention": True, "also": ["*.visual.*"]}
TINY = {
    **{f"{side}_{key}": 2 for side in ("encoder", "decoder") for key in ("layers", "attention_heads")},
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "d_model": 16,
    "vocab_size": 60,
    "max_position_embeddings": 32,
    "dropout": 0.0,
    "init_std": 0.2,
}


def trained(method: dict[str, Any] | None, **config) -> tuple[int, int]:
    """Return what CLIP-BART at its full size trains and has with a method."""
    methods = [] if method is None else [method]
    found = measure(
        PROJECT,
        Measurement(
            model="clip-bart-base", head="text2text", config=config, methods=methods, meters={"parameters": {}}
        ),
    )["parameters"]
    for expected in found["expected"].values():
        assert expected["trainable_parameters"] == found["trainable"]
    return found["trainable"], found["total"]


@pytest.mark.parametrize(
    ("method", "own", "besides"),
    [
        ({"name": "adapter", **ADAPTER}, PLACES * (DOWN + UP), NORMS),
        ({"name": "adapter", **ADAPTER, "tasks": 4, "shared": "up"}, PLACES * (4 * DOWN + UP), NORMS),
        ({"name": "adapter", **ADAPTER, "tasks": 4, "shared": "down"}, PLACES * (DOWN + 4 * UP), NORMS),
        ({"name": "adapter", **ADAPTER, "tasks": 4}, PLACES * 4 * (DOWN + UP), NORMS),
        (
            {"name": "phm-adapter", **ADAPTER, "n": 2, "tasks": 4},
            PLACES * 4 * (2 * (2**3 + 2 * 384 * 48) + 96 + 768),
            NORMS,
        ),
        # Rank 128 on query and value of 18 attentions; every bias of BART: four matrices an attention, two a feed-forward.
        (
            {"name": "lora", "rank": 128, "also": ["*.visual.*", "*bias"]},
            18 * 2 * 128 * 2 * 768,
            NORMS // 2 + 18 * 4 * 768 + 12 * (3072 + 768),
        ),
        (
            {"name": "prompt-tuning", "tokens": 40, "hidden": 800, "also": ["*.visual.*"]},
            40 * 768 + 768 * 800 + 800 + 800 * 768 + 768,
            0,
        ),
        # Two stacks with 2 and 3 sublayers; 512-wide embeddings of 4 tasks and 6 layers a stack, joined to 8 numbers.
        (
            {"name": "hyperformer", "projected": 8, "tasks": 4, **ADAPTER},
            4 * 512 + 2 * (6 * 512 + 1024 * 128 + 128 + 128 * 8 + 8 + 2 * 8) + 5 * (8 + 1) * (DOWN + UP),
            NORMS,
        ),
    ],
    ids=["single", "shared-up", "shared-down", "separate", "separate-phm", "lora", "prompt", "hyperformer"],
)
def test_trained_parameters_are_those_of_the_sums(method, own, besides):
    assert trained(method) == (own + PROJECTION + besides, BART + PROJECTION + own)


def test_the_whole_model_is_bart_with_more_words_and_a_projection():
    assert PROJECTION == 1_582_848
    assert trained(None) == (BART + PROJECTION, BART + PROJECTION)
    assert trained(None, vocab_size=50265)[1] == 139_420_416 + PROJECTION


# --- the model ----------------------------------------------------------------------------------------------------------


def tiny(architecture: str = "clip-bart", seed: int = 0) -> Any:
    more = {"feature_size": 8, "regions": 4} if architecture == "clip-bart" else {}
    entry = ModelEntry(title="", architecture=architecture, config={**TINY, **more})
    return models.build(entry, head="text2text", seed=seed)


def batch(regions: int = 4) -> dict[str, torch.Tensor]:
    seeds = torch.Generator().manual_seed(1)
    ids = torch.randint(4, 50, (3, 7), generator=seeds)
    mask = torch.ones_like(ids)
    mask[0, 5:] = 0
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "features": torch.randn(3, regions, 8, generator=seeds),
        "boxes": torch.rand(3, regions, 4, generator=seeds),
        "labels": torch.randint(4, 50, (3, 5), generator=seeds),
    }


def test_without_an_image_it_is_bart():
    ours, bart = tiny(), tiny("bart")
    bart.load_state_dict({name: ours.state_dict()[name] for name in bart.state_dict()})
    words = {name: batch()[name] for name in ("input_ids", "attention_mask", "labels")}
    torch.testing.assert_close(ours(**words).logits, bart(**words).logits)


def test_regions_are_seen_and_padded_words_are_not():
    model, given = tiny(), batch()
    first = model(**given).logits
    other = {**given, "features": given["features"] + 1}
    assert not torch.allclose(model(**other).logits, first)
    padded = given["input_ids"].clone()
    padded[0, 5:] = 9
    torch.testing.assert_close(model(**{**given, "input_ids": padded}).logits, first)


def test_a_region_is_the_sum_of_its_four_embeddings():
    model, given = tiny(), batch()
    encoder = model.model.encoder
    found = encoder.visual(given["features"], given["boxes"], encoder.embed_tokens)[1, 2]
    left, top, right, bottom = given["boxes"][1, 2]
    box = torch.stack([left, top, right, bottom, (right - left) * (bottom - top)])
    by_hand = (
        encoder.visual.feature(given["features"][1, 2])
        + encoder.visual.box(box)
        + encoder.visual.image.weight[0]
        + encoder.embed_tokens.weight[60 - 1 - 2]
    )
    torch.testing.assert_close(found, by_hand)


# --- adapters by task -----------------------------------------------------------------------------------------------------


def prepared(method: dict[str, Any]) -> Any:
    model = tiny()
    entry, config = parse(method)
    entry.create(config).prepare(model, Context(head="text2text"))
    return model


def test_cross_attention_has_an_adapter_in_every_decoder_layer():
    places = sublayer_outputs(tiny(), cross_attention=True)
    assert [place.sublayer for place in places if place.stack == "decoder"] == [
        "attention",
        "cross-attention",
        "feed-forward",
    ] * 2
    assert len({id(place.module) for place in places}) == len(places) == 2 * 2 + 2 * 3
    with pytest.raises(ConfigError, match="no known cross-attention output layer"):
        sublayer_outputs(models.build(PROJECT.model("smoke-bert"), head="none"), cross_attention=True)


def test_only_the_chosen_task_and_what_is_shared_get_gradients():
    model = prepared({"name": "adapter", "reduction": 4, "tasks": 3, "shared": "up", "also": ["*.visual.*"]})
    select_task(model, 2)
    model(**batch()).loss.backward()
    adapter = model.model.encoder.layers[0].fc2.adapter
    assert [down.weight.grad is None for down in adapter.down] == [True, True, False]
    assert adapter.up.weight.grad.abs().sum() > 0
    with pytest.raises(ConfigError, match="tasks 0 to 2"):
        select_task(model, 3)


def test_also_names_a_glob_that_fits_nothing():
    with pytest.raises(ConfigError, match="nothing-here"):
        prepared({"name": "lora", "rank": 2, "also": ["nothing-here.*"]})


# --- hypernetworks and prompts ----------------------------------------------------------------------------------------------


def test_generated_adapters_are_linear_layers_of_task_and_layer():
    config = {"tasks": 2, "reduction": 4, "embedding": 6, "hidden": 5, "projected": 3, "cross_attention": True}
    model = prepared({"name": "hyperformer", "initial_std": 0.5, **config})
    networks = model.model.hyperformer
    select_task(model, 1)
    x = torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(0))
    found = networks(x, "decoder", 1, "cross-attention")
    stack = networks.stacks["decoder"]
    joined = torch.cat([networks.embeddings.weight[1], stack.layers.weight[1]])
    inner = torch.relu(joined @ stack.join[0].weight.T + stack.join[0].bias)
    inner = inner @ stack.join[2].weight.T + stack.join[2].bias
    made = (inner - inner.mean()) / torch.sqrt(inner.var(unbiased=False) + 1e-6)  # the released epsilon
    down, up = stack.down["cross-attention"], stack.up["cross-attention"]
    matrix = (down.weight.weight @ made).reshape(4, 16)
    small = ACT2FN["gelu_new"](x @ matrix.T + down.bias.weight @ made)
    by_hand = x + small @ (up.weight.weight @ made).reshape(16, 4).T + up.bias.weight @ made
    torch.testing.assert_close(found, by_hand)
    model(**batch()).loss.backward()
    assert networks.embeddings.weight.grad[0].abs().sum() == 0 < networks.embeddings.weight.grad[1].abs().sum()


def test_a_prompt_through_a_net_is_read_by_the_encoder_and_seen_by_the_decoder():
    model = prepared({"name": "prompt-tuning", "tokens": 3, "hidden": 5, "also": ["*.visual.*"]})
    prompt = model.model.encoder.prompt
    made = functional.linear(
        torch.tanh(functional.linear(prompt.embedding.weight, prompt.net[0].weight, prompt.net[0].bias)),
        prompt.net[2].weight,
        prompt.net[2].bias,
    )
    torch.testing.assert_close(prompt(torch.arange(3)), made)
    output = model(**batch())
    assert output.encoder_last_hidden_state.shape == (3, 3 + 7 + 4, 16)
    output.loss.backward()
    assert prompt.embedding.weight.grad.abs().sum() > 0


# --- images of its own ------------------------------------------------------------------------------------------------------


def seeing() -> Any:
    """A tiny model with convolutions of its own: 8 x 8 images as 2 x 2 regions."""
    more = {"vision": [4, 8], "image_size": 8, "feature_size": 8, "regions": 4, "forced_eos_token_id": None}
    entry = ModelEntry(title="", architecture="clip-bart", config={**TINY, **more, "dropout": 0.0})
    return models.build(entry, head="text2text", seed=0)


def looked_at() -> dict[str, torch.Tensor]:
    seeds = torch.Generator().manual_seed(2)
    words = {name: batch()[name] for name in ("input_ids", "attention_mask", "labels")}
    mask = torch.tensor([[1, 1], [1, 0], [1, 1]])
    return {**words, "pixel_values": torch.rand(3, 2, 3, 8, 8, generator=seeds), "image_mask": mask}


def test_an_image_that_is_not_there_is_not_seen_and_the_others_are():
    model, given = seeing(), looked_at()
    first = model(**given).logits
    changed = given["pixel_values"].clone()
    changed[1, 1] += 1
    torch.testing.assert_close(model(**{**given, "pixel_values": changed}).logits, first)
    changed[2, 1] += 1
    assert not torch.allclose(model(**{**given, "pixel_values": changed}).logits[2], first[2])


def test_images_are_grids_of_their_features_with_cells_as_boxes():
    model, given = seeing(), looked_at()
    encoder = model.model.encoder
    features = encoder.vision(given["pixel_values"])
    assert features.shape == (3, 2, 4, 8)
    torch.testing.assert_close(features[2, 1], encoder.vision(given["pixel_values"][2:, 1:])[0, 0])
    both = encoder.visual(features, None, encoder.embed_tokens)
    cells = torch.tensor([[0, 0, 0.5, 0.5], [0.5, 0, 1, 0.5], [0, 0.5, 0.5, 1], [0.5, 0.5, 1, 1]])
    second = torch.ones(3, 4, dtype=torch.long)
    by_hand = encoder.visual(features[:, 1], cells.expand(3, -1, -1), encoder.embed_tokens, second)
    torch.testing.assert_close(both[:, 4:], by_hand)


@pytest.mark.parametrize("method", [None, {"name": "prompt-tuning", "tokens": 3, "also": ["*.visual.*"]}])
def test_generating_sees_what_the_forward_pass_sees(method):
    model, given = seeing(), looked_at()
    if method is not None:
        entry, config = parse(method)
        entry.create(config).prepare(model, Context(head="text2text"))
    given.pop("labels")
    said = model.generate(**given, max_new_tokens=4, do_sample=False, num_beams=1, eos_token_id=59)
    for step in range(1, said.shape[1]):
        logits = model(**given, decoder_input_ids=said[:, :step]).logits
        assert torch.equal(logits[:, -1].argmax(-1), said[:, step])


def test_a_model_grows_out_of_barts_weights(tmp_path):
    bart = tiny("bart", seed=1)
    bart.save_pretrained(tmp_path)
    small = ModelEntry(title="", architecture="bart", config=TINY)
    more = {"vocab_size": TINY["vocab_size"] + 5, "feature_size": 8, "regions": 4}
    large = ModelEntry(title="", architecture="clip-bart", config={**TINY, **more})
    model = models.grown(large, small, tmp_path, head="text2text", seed=3)
    own, start = model.state_dict(), bart.state_dict()
    for name, value in start.items():
        assert torch.equal(own[name][tuple(slice(size) for size in value.shape)], value), name
    fresh = models.build(large, head="text2text", seed=3).state_dict()
    assert torch.equal(own["model.shared.weight"][-5:], fresh["model.shared.weight"][-5:])
    assert torch.equal(own["model.encoder.visual.feature.0.weight"], fresh["model.encoder.visual.feature.0.weight"])
    with pytest.raises(AssetError, match="no room"):
        models.grown(
            ModelEntry(title="", architecture="bart", config={**TINY, "d_model": 8}), small, tmp_path, head="text2text"
        )


def test_frozen_parts_stay_and_the_rest_is_trained():
    entry, config = parse({"name": "freeze", "names": ["*.vision.*"]})
    model, method = seeing(), entry.create(config)
    method.prepare(model, Context(head="text2text"))
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert frozen == ["model.encoder.vision.0.weight", "model.encoder.vision.2.weight"]
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert method.expected(model) == {"trainable_parameters": trained}
    with pytest.raises(ConfigError, match="nothing-here"):
        entry.create(config.model_copy(update={"names": ["nothing-here"]})).prepare(seeing(), Context())
