"""The scenes of shapes follow their written rule, are the same every time, and no scene of the test was seen in training."""

import io
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from replica.assets import generated, scenes, smoke_tokenizer
from replica.errors import AssetError
from tests.unit.assets_helpers import hash_rows

SIZES = {"train": {"vqa": 120, "gqa": 120, "nlvr": 60, "caption": 30, "look": 90}, "test": {"vqa": 60, "nlvr": 30}}


def made(seed=0):
    options = {"sizes": {**SIZES, "validation": {"caption": 10}}}
    splits = generated.generate("scenes", seed, options)
    return {name: [row for batch in rows.batches() for row in batch.to_pylist()] for name, rows in splits.items()}


@pytest.fixture(scope="module")
def splits():
    return made()


def read(scene):
    """Things of a caption by their place: `a red circle top left , …` → {("top", "left"): ("red", "circle")}."""
    things = (part.split() for part in scene.split(" , "))
    return {(row, side): (colour, shape) for _, colour, shape, row, side in things}


def seen(scene, word):
    return [place for place, thing in scene.items() if word in thing]


SIDES = {
    "left of": lambda a, b: (a[1], b[1]) == ("left", "right"),
    "right of": lambda a, b: (a[1], b[1]) == ("right", "left"),
    "above": lambda a, b: (a[0], b[0]) == ("top", "bottom"),
    "below": lambda a, b: (a[0], b[0]) == ("bottom", "top"),
}
SINGULAR = {"circles": "circle", "squares": "square", "triangles": "triangle", "crosses": "cross"}


def answered(kind, text, shown):
    """Answer a question by its words and the captions alone."""
    first, words = shown[0], text.replace("?", "").replace(".", "").split()
    if kind == ("vqa", "count"):
        return str(len(seen(first, SINGULAR[words[2]])))
    if kind == ("vqa", "colour"):
        [place] = seen(first, words[-1])
        return first[place][0]
    if kind == ("vqa", "exists"):
        return "yes" if (words[-2], words[-1]) in first.values() else "no"
    side = next((side for side in SIDES if f" {side} " in text), None)
    if kind == ("vqa", "relation"):
        [one], [other] = seen(first, words[2]), seen(first, words[-1])
        return "yes" if SIDES[side](one, other) else "no"
    if kind in (("gqa", "colour"), ("gqa", "shape")):
        [anchor] = seen(first, words[-1] if kind[1] == "colour" else words[-2])
        near = [p for p in first if sum(a != b for a, b in zip(p, anchor, strict=True)) == 1 and SIDES[side](p, anchor)]
        return first[near[0]][0 if kind[1] == "colour" else 1]
    if kind == ("gqa", "same"):
        [one], [other] = seen(first, words[2]), seen(first, words[5])
        return "yes" if first[one][0] == first[other][0] else "no"
    if kind == ("gqa", "row"):
        return str(sum(place[0] == words[-2] for place in seen(first, words[2])))
    if kind == ("nlvr", "both"):
        return "true" if all(seen(scene, words[-1]) for scene in shown) else "false"
    if kind == ("nlvr", "one"):
        return "true" if sum(bool(seen(scene, words[-2])) for scene in shown) == 1 else "false"
    shape = SINGULAR[words[5]]
    return "true" if len(seen(shown[0], shape)) > len(seen(shown[1], shape)) else "false"


def test_answers_follow_from_the_scenes_by_the_words_of_the_question(splits):
    rows = [row for row in splits["train"] + splits["test"] if row["task"] in ("vqa", "gqa", "nlvr")]
    for row in rows:
        found = answered((row["task"], row["kind"]), row["text"], [read(scene) for scene in row["scenes"]])
        assert found == row["answer"], row
        assert len(row["images"]) == len(row["scenes"]) == (2 if row["task"] == "nlvr" else 1)
    captions = [row for row in splits["train"] if row["task"] == "caption"]
    assert captions and all(row["scenes"] == [row["answer"]] for row in captions)


def test_answers_of_a_kind_are_equally_frequent(splits):
    found = Counter((row["task"], row["kind"], row["answer"]) for row in splits["train"])
    assert {found["vqa", "count", answer] for answer in "012"} == {120 // 4 // 3}
    assert {found["vqa", "relation", answer] for answer in ("yes", "no")} == {120 // 4 // 2}
    assert {found["nlvr", kind, a] for kind in ("both", "one", "more") for a in ("true", "false")} == {60 // 3 // 2}


def test_splits_share_no_scene_and_a_seed_decides_everything(splits):
    by_split = {name: {scene for row in rows for scene in row["scenes"]} for name, rows in splits.items()}
    assert not by_split["train"] & by_split["test"] and not by_split["train"] & by_split["validation"]
    assert made() == splits
    assert hash_rows(made(1)["train"]) != hash_rows(splits["train"])


def test_what_a_caption_names_is_where_it_says_in_the_image(splits):
    for row in splits["train"][:100]:
        image = np.asarray(Image.open(io.BytesIO(row["images"][0]))).astype(int)
        assert image.shape == (32, 32, 3)
        scene = read(row["scenes"][0])
        for place in ((r, s) for r in ("top", "bottom") for s in ("left", "right")):
            rows, columns = slice(16 * (place[0] == "bottom"), None), slice(16 * (place[1] == "right"), None)
            cell = image[rows, columns][:16, :16].reshape(-1, 3)
            bright = cell[cell.max(1) > 120]
            assert bool(len(bright)) == (place in scene)
            if place in scene:
                colour = np.array(scenes.COLOURS[scene[place][0]])
                assert abs(bright.mean(0) - colour).max() < 30


def test_the_tokenizer_knows_every_word(splits, tmp_path):
    from tokenizers import Tokenizer

    smoke_tokenizer.build_scenes(tmp_path)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    unknown = tokenizer.token_to_id("[UNK]")
    for row in splits["train"]:
        for text in (row["text"], row["answer"], f"{row['task']}:"):
            assert unknown not in tokenizer.encode(text).ids, text
    assert tokenizer.get_vocab_size() <= 256 - 16  # the last 16 name the cells of an image


def test_an_unknown_task_is_named_with_the_nearest():
    with pytest.raises(AssetError, match="nlvr"):
        generated.generate("scenes", 0, {"sizes": {"train": {"nlvr2": 3}}})
