"""CLIP-T5: counts by hand, the model against T5, position biases and regions by hand, what masked images do, and generation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.models.t5.modeling_t5 import T5Stack

from replica import models
from replica.config import load_project
from replica.config.asset_schema import ModelEntry
from replica.config.schema import Measurement
from replica.measure.structural import measure
from replica.models.vision_language_t5 import joint_bias

PROJECT = load_project(Path(__file__).resolve().parents[2])
#: T5 base with VL-T5's 32,200 words, and the projection: 2048 -> 768 and 5 -> 768 with biases and norms without, two images.
T5 = 222_903_552 + (32_200 - 32_128) * 768
PROJECTION = (2048 * 768 + 768 + 768) + (5 * 768 + 768 + 768) + 2 * 768
#: Encoder layers have two norms and decoder layers three; each stack ends with one.
NORMS = (12 * 2 + 12 * 3 + 2) * 768
PLACES = 12 * 2 + 12 * 3
TINY = {
    "vocab_size": 60,
    "d_model": 16,
    "d_kv": 4,
    "d_ff": 32,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "dropout_rate": 0.0,
    "pad_token_id": 0,
    "eos_token_id": 59,
    "decoder_start_token_id": 0,
}
IMAGES = {"vision": [4, 8], "image_size": 8, "feature_size": 8, "regions": 4}


def tiny(architecture: str = "clip-t5", seed: int = 0, **more: Any) -> Any:
    """A tiny model; as clip-t5 it makes 2 x 2 regions of an 8 x 8 image."""
    config = {**TINY, **(IMAGES if architecture == "clip-t5" else {}), **more}
    return models.build(ModelEntry(title="", architecture=architecture, config=config), head="text2text", seed=seed)


def batch() -> dict[str, torch.Tensor]:
    """Three rows of up to seven words and two images, of which the second row lacks one."""
    seeds = torch.Generator().manual_seed(1)
    ids = torch.randint(4, 50, (3, 7), generator=seeds)
    mask = torch.ones_like(ids)
    mask[0, 5:] = 0
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "pixel_values": torch.rand(3, 2, 3, 8, 8, generator=seeds),
        "image_mask": torch.tensor([[1, 1], [1, 0], [1, 1]]),
        "labels": torch.randint(4, 50, (3, 5), generator=seeds),
    }


@pytest.mark.parametrize(
    ("methods", "trained", "added"),
    [
        ([], T5 + PROJECTION, 0),
        (
            [{"name": "adapter", "reduction": 8, "cross_attention": True, "also": ["*.visual.*"]}],
            PLACES * (2 * 768 * 96 + 96 + 768) + NORMS + PROJECTION,
            PLACES * (2 * 768 * 96 + 96 + 768),
        ),
    ],
    ids=["full", "single"],
)
def test_counts_are_those_of_the_sums(methods, trained, added):
    meters = {"parameters": {}}
    asked = Measurement(model="clip-t5-base", head="text2text", methods=methods, meters=meters)
    found = measure(PROJECT, asked)["parameters"]
    assert (found["trainable"], found["total"]) == (trained, T5 + PROJECTION + added)


def test_without_an_image_it_is_t5():
    ours, t5 = tiny(), tiny("t5", seed=1)
    t5.load_state_dict({name: ours.state_dict()[name] for name in t5.state_dict()})
    words = {name: batch()[name] for name in ("input_ids", "attention_mask", "labels")}
    assert torch.equal(ours(**words).logits, t5(**words).logits)
    words.pop("labels")
    assert torch.equal(ours.generate(**words, max_new_tokens=4), t5.generate(**words, max_new_tokens=4))


def test_positions_count_between_words_alone():
    model = tiny()
    attention = model.encoder.block[0].layer[0].SelfAttention
    found = joint_bias(attention, 3, 5)
    assert found.shape == (1, 4, 5, 5)
    assert not found[..., 3:, :].any() and not found[..., :, 3:].any()
    assert torch.equal(found[..., :3, :3], attention.compute_bias(3, 3))
    assert torch.equal(joint_bias(attention, 5, 5), attention.compute_bias(5, 5))


def test_the_encoder_is_t5s_over_words_and_regions_with_the_bias_cut():
    """T5's own stack on the same vectors, its first attention replaced by one whose bias is zero from and to regions."""
    model, given = tiny(), batch()
    encoder = model.encoder
    visual = encoder.visual(encoder.vision(given["pixel_values"]), None, encoder.embed_tokens)
    vectors = torch.cat([encoder.embed_tokens(given["input_ids"]), visual], 1)
    stack = T5Stack(encoder.config).eval()
    stack.load_state_dict({name: encoder.state_dict()[name] for name in stack.state_dict()})
    attention = stack.block[0].layer[0].SelfAttention
    whole = attention.compute_bias

    def cut(*args: Any, **kwargs: Any) -> torch.Tensor:
        bias = whole(*args, **kwargs).clone()
        bias[..., 7:, :] = bias[..., :, 7:] = 0
        return bias

    attention.compute_bias = cut
    mask = torch.cat([given["attention_mask"], given["image_mask"].repeat_interleave(4, 1)], 1)
    by_hand = stack(inputs_embeds=vectors, attention_mask=mask).last_hidden_state
    inputs = {name: value for name, value in given.items() if name != "labels"}
    torch.testing.assert_close(encoder(**inputs).last_hidden_state, by_hand)


def test_a_region_is_the_sum_of_its_four_embeddings():
    model = tiny()
    encoder = model.encoder
    seeds = torch.Generator().manual_seed(2)
    features, boxes = torch.randn(1, 4, 8, generator=seeds), torch.rand(1, 4, 4, generator=seeds)

    def normed(sequence, x):
        inner = x @ sequence[0].weight.T + sequence[0].bias
        return sequence[1].weight * inner / torch.sqrt((inner**2).mean() + 1e-6)

    left, top, right, bottom = boxes[0, 2]
    box = torch.stack([left, top, right, bottom, (right - left) * (bottom - top)])
    by_hand = (
        normed(encoder.visual.feature, features[0, 2])
        + normed(encoder.visual.box, box)
        + encoder.visual.image.weight[0]
        + model.shared.weight[60 - 1 - 2]
    )
    torch.testing.assert_close(encoder.visual(features, boxes, encoder.embed_tokens)[0, 2], by_hand)


def test_an_image_that_is_not_there_is_not_seen_and_the_others_are():
    model, given = tiny(), batch()
    first = model(**given).logits
    changed = given["pixel_values"].clone()
    changed[1, 1] += 1
    torch.testing.assert_close(model(**{**given, "pixel_values": changed}).logits, first)
    changed[2, 1] += 1
    assert not torch.allclose(model(**{**given, "pixel_values": changed}).logits[2], first[2])
    padded = given["input_ids"].clone()
    padded[0, 5:] = 9
    torch.testing.assert_close(model(**{**given, "input_ids": padded}).logits, first)


@pytest.mark.parametrize("use_cache", [True, False])
def test_generating_sees_what_the_forward_pass_sees_and_rows_alone_say_the_same(use_cache):
    model, given = tiny(seed=3), batch()
    given.pop("labels")
    settings = {"max_new_tokens": 4, "do_sample": False, "num_beams": 1, "eos_token_id": None, "use_cache": use_cache}
    said = model.generate(**given, **settings)
    assert said.shape == (3, 5)
    for step in range(1, said.shape[1]):
        logits = model(**given, decoder_input_ids=said[:, :step]).logits
        assert torch.equal(logits[:, -1].argmax(-1), said[:, step])
    for row in range(3):
        alone = {name: value[row : row + 1] for name, value in given.items()}
        assert torch.equal(model.generate(**alone, **settings)[0], said[row])


def test_a_model_grows_out_of_t5s_weights(tmp_path):
    start = tiny("t5", seed=1)
    start.save_pretrained(tmp_path)
    small = ModelEntry(title="", architecture="t5", config=TINY)
    large = ModelEntry(title="", architecture="clip-t5", config={**TINY, **IMAGES, "vocab_size": 65})
    model = models.grown(large, small, tmp_path, head="text2text", seed=3)
    own = model.state_dict()
    for name, value in start.state_dict().items():
        assert torch.equal(own[name][tuple(slice(size) for size in value.shape)], value), name
    assert model.lm_head.weight is model.encoder.embed_tokens.weight is model.shared.weight
