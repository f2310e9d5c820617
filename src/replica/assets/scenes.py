"""Scenes of shapes: small generated images with questions, statements and captions whose answers follow a written rule.

A scene has four places (two rows of two), each empty or with a shape of a colour: 17**4 scenes. Which split a scene belongs to is
decided by a hash of it, for all tasks alike: no scene of a later split was seen in training, in whatever task.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from replica.assets.grammar import draw, draw_some
from replica.errors import AssetError, nearest

COLOURS = {"red": (220, 40, 40), "green": (40, 190, 60), "blue": (50, 70, 230), "yellow": (230, 210, 40)}
SHAPES = ("circle", "square", "triangle", "cross")
PLACES = ("top left", "top right", "bottom left", "bottom right")
#: Words of the questions, statements and captions besides colours, shapes and places.
WORDS = (
    *("how", "many", "what", "which", "colour", "shape", "shapes", "is", "are", "there", "a", "the", "and", "or", "of"),
    *("left", "right", "above", "below", "in", "row", "top", "bottom", "same", "where", "empty", "none", "nothing"),
    *("both", "exactly", "one", "image", "images", "has", "have", "more", "than", "first", "second", "only"),
    *("yes", "no", "true", "false", "0", "1", "2", "3", "4", "describe", "caption", "question", "statement"),
    *("vqa", "gqa", "nlvr", "look", "?", ",", ".", ":"),
    *("circles", "squares", "triangles", "crosses"),
)
SIDE, CELL = 32, 16
_ROWS, _COLUMNS = np.mgrid[0:SIDE, 0:SIDE]
#: Of a thousand scenes, those of train and of validation; the rest is test.
SHARES = {"train": 700, "validation": 150}

SCHEMA = pa.schema(
    {
        "task": pa.string(),
        "kind": pa.string(),
        "scenes": pa.list_(pa.string()),
        "images": pa.list_(pa.binary()),
        "text": pa.string(),
        "answer": pa.string(),
    }
)

#: The item at each place: None, or (colour, shape).
Scene = tuple[tuple[str, str] | None, ...]
#: (text, answer, scenes) of a question of a kind that has the wanted answer, or None where the drawn scenes do not allow one.
Question = tuple[str, str, list[Scene]] | None


def split_of(scene: Scene) -> str:
    """Return the split that a scene belongs to."""
    number = int.from_bytes(hashlib.sha256(repr(scene).encode()).digest()[:8]) % 1000
    return "train" if number < SHARES["train"] else "validation" if number < sum(SHARES.values()) else "test"


def rows_of(rng: random.Random, task: str, size: int, split: str) -> list[dict[str, Any]]:
    """Make `size` different rows of a task; raises AssetError for a task that is not known.

    Kinds of question take turns, and within a kind the answers do: each is as frequent as the others (captions excepted).
    """
    if task not in KINDS:
        raise AssetError(f"generator 'scenes': no task {task!r}{nearest(task, KINDS)}")
    kinds, seen, rows = list(KINDS[task]), set(), []
    for number in range(size):
        kind = kinds[number % len(kinds)]
        answers, ask = KINDS[task][kind]
        wanted = answers[number // len(kinds) % len(answers)] if answers else ""
        question = None
        while question is None or (question[0], repr(question[2])) in seen:
            question = ask(rng, split, wanted)
        text, answer, scenes = question
        seen.add((text, repr(scenes)))
        images = [image_of(rng, scene) for scene in scenes]
        shown = [caption(scene) for scene in scenes]
        rows.append({"task": task, "kind": kind, "scenes": shown, "images": images, "text": text, "answer": answer})
    return rows


@functools.cache
def _scenes(split: str, shapes: int) -> list[Scene]:
    """Return every scene of a split that has this many shapes, in a fixed order."""
    items = [None, *itertools.product(COLOURS, SHAPES)]
    every = itertools.product(items, repeat=len(PLACES))
    return [scene for scene in every if len(PLACES) - scene.count(None) == shapes and split_of(scene) == split]


def scene_of(rng: random.Random, split: str) -> Scene:
    """Draw a scene of a split: two to four shapes at drawn places."""
    return draw(rng, _scenes(split, draw(rng, (2, 3, 3, 4))))


def image_of(rng: random.Random, scene: Scene) -> bytes:
    """Draw a scene as a portable pixmap of 32 x 32: shapes of drawn size and position in their cells, on a dim noisy ground."""
    noise = np.frombuffer(rng.getrandbits(8 * 3 * SIDE * SIDE).to_bytes(3 * SIDE * SIDE, "little"), np.uint8)
    image = (noise.reshape(SIDE, SIDE, 3) // 8).astype(np.int64)
    for place, item in enumerate(scene):
        if item is None:
            continue
        colour, shape = item
        half = draw(rng, (4, 5, 6))
        room = CELL // 2 - half
        y = (place // 2) * CELL + CELL // 2 + int((2 * rng.random() - 1) * room)
        x = (place % 2) * CELL + CELL // 2 + int((2 * rng.random() - 1) * room)
        down, across = _ROWS - y, _COLUMNS - x
        within = {
            "circle": down**2 + across**2 <= half**2,
            "square": (abs(down) <= half - 1) & (abs(across) <= half - 1),
            "triangle": (abs(down) <= half) & (2 * abs(across) <= down + half),
            "cross": (np.minimum(abs(down), abs(across)) <= 1) & (np.maximum(abs(down), abs(across)) <= half),
        }[shape]
        image[within] = np.array(COLOURS[colour]) - 15 + image[within]
    pixels = image.clip(0, 255).astype(np.uint8).tobytes()
    return f"P6 {SIDE} {SIDE} 255\n".encode() + pixels


def caption(scene: Scene) -> str:
    """Name every shape with colour and place, in the order of the places."""
    named = [f"a {item[0]} {item[1]} {PLACES[place]}" for place, item in enumerate(scene) if item is not None]
    return " , ".join(named)


def _count(scene: Scene, colour: str | None = None, shape: str | None = None, places: Any = range(4)) -> int:
    return sum(
        item is not None and (colour is None or item[0] == colour) and (shape is None or item[1] == shape)
        for item in (scene[place] for place in places)
    )


def _only(scene: Scene, **features: str) -> int | None:
    """Return the place of the one item with this colour or shape; None where there is none or more."""
    places = [place for place in range(4) if _count(scene, places=[place], **features)]
    return places[0] if len(places) == 1 else None


def _plural(shape: str) -> str:
    return f"{shape}es" if shape.endswith("s") else f"{shape}s"


def _yes(truth: bool) -> str:
    return "yes" if truth else "no"


# --- visual question answering -----------------------------------------------------------------------------------------


def _vqa_count(rng: random.Random, split: str, wanted: str) -> Question:
    """How many of a shape."""
    scene, shape = scene_of(rng, split), draw(rng, SHAPES)
    answer = str(_count(scene, shape=shape))
    return (f"how many {_plural(shape)} are there ?", answer, [scene]) if answer == wanted else None


def _vqa_colour(rng: random.Random, split: str, wanted: str) -> Question:
    """The colour of the only shape of its kind."""
    scene, shape = scene_of(rng, split), draw(rng, SHAPES)
    place = _only(scene, shape=shape)
    if place is None or scene[place][0] != wanted:
        return None
    return f"what colour is the {shape} ?", wanted, [scene]


def _vqa_exists(rng: random.Random, split: str, wanted: str) -> Question:
    """Whether one item has a colour and a shape; where none does, each of them is in the scene."""
    scene, colour, shape = scene_of(rng, split), draw(rng, list(COLOURS)), draw(rng, SHAPES)
    if not _count(scene, colour=colour) or not _count(scene, shape=shape):
        return None
    if _yes(_count(scene, colour, shape) > 0) != wanted:
        return None
    return f"is there a {colour} {shape} ?", wanted, [scene]


def _vqa_relation(rng: random.Random, split: str, wanted: str) -> Question:
    """Whether the only shape of a kind is left of, right of, above or below that of another."""
    scene, shapes = scene_of(rng, split), draw_some(rng, SHAPES, 2)
    first, second = (_only(scene, shape=shape) for shape in shapes)
    if first is None or second is None:
        return None
    side = draw(rng, ("left of", "right of", "above", "below"))
    down, across = second // 2 - first // 2, second % 2 - first % 2
    truth = {"left of": across > 0, "right of": across < 0, "above": down > 0, "below": down < 0}[side]
    return (f"is the {shapes[0]} {side} the {shapes[1]} ?", wanted, [scene]) if _yes(truth) == wanted else None


# --- compositional questions ---------------------------------------------------------------------------------------------


def _neighbour(rng: random.Random, scene: Scene, **features: str) -> tuple[str, tuple[str, str]] | None:
    """Return a side of the one item with these features (colour or shape), and the item on that side."""
    place = _only(scene, **features)
    if place is None:
        return None
    side, other = draw(
        rng,
        [
            ("below" if place < 2 else "above", (place + 2) % 4),
            ("right of" if place % 2 == 0 else "left of", place ^ 1),
        ],
    )
    return None if scene[other] is None else (side, scene[other])


def _gqa_colour(rng: random.Random, split: str, wanted: str) -> Question:
    """The colour of the other (left, right, above or below) of the only shape of its kind."""
    scene, shape = scene_of(rng, split), draw(rng, SHAPES)
    other = _neighbour(rng, scene, shape=shape)
    if other is None or other[1][0] != wanted:
        return None
    return f"what colour is the shape {other[0]} the {shape} ?", wanted, [scene]


def _gqa_shape(rng: random.Random, split: str, wanted: str) -> Question:
    """The shape of the other (left, right, above or below) of the only item of its colour."""
    scene, colour = scene_of(rng, split), draw(rng, list(COLOURS))
    other = _neighbour(rng, scene, colour=colour)
    if other is None or other[1][1] != wanted:
        return None
    return f"what is {other[0]} the {colour} shape ?", wanted, [scene]


def _gqa_same(rng: random.Random, split: str, wanted: str) -> Question:
    """Whether two shapes, each the only one of its kind, have one colour."""
    scene, shapes = scene_of(rng, split), draw_some(rng, SHAPES, 2)
    places = [_only(scene, shape=shape) for shape in shapes]
    if None in places or _yes(scene[places[0]][0] == scene[places[1]][0]) != wanted:
        return None
    return f"are the {shapes[0]} and the {shapes[1]} the same colour ?", wanted, [scene]


def _gqa_row(rng: random.Random, split: str, wanted: str) -> Question:
    """How many items of a colour are in a row."""
    scene, colour, row = scene_of(rng, split), draw(rng, list(COLOURS)), draw(rng, (0, 1))
    answer = str(_count(scene, colour=colour, places=(2 * row, 2 * row + 1)))
    text = f"how many {colour} shapes are in the {('top', 'bottom')[row]} row ?"
    return (text, answer, [scene]) if answer == wanted else None


# --- statements about two images -------------------------------------------------------------------------------------------


def _nlvr_both(rng: random.Random, split: str, wanted: str) -> Question:
    """Both images have a shape; where not, one of them has."""
    scenes, shape = [scene_of(rng, split), scene_of(rng, split)], draw(rng, SHAPES)
    have = sum(_count(scene, shape=shape) > 0 for scene in scenes)
    if have != (2 if wanted == "true" else 1):
        return None
    return f"both images have a {shape} .", wanted, scenes


def _nlvr_one(rng: random.Random, split: str, wanted: str) -> Question:
    """Exactly one image has a colour; where not, both or none have."""
    scenes, colour = [scene_of(rng, split), scene_of(rng, split)], draw(rng, list(COLOURS))
    have = sum(_count(scene, colour=colour) > 0 for scene in scenes)
    if (have == 1) != (wanted == "true"):
        return None
    return f"exactly one image has a {colour} shape .", wanted, scenes


def _nlvr_more(rng: random.Random, split: str, wanted: str) -> Question:
    """The first image has more of a shape than the second; where not, fewer."""
    scenes, shape = [scene_of(rng, split), scene_of(rng, split)], draw(rng, SHAPES)
    first, second = (_count(scene, shape=shape) for scene in scenes)
    if first == second or (first > second) != (wanted == "true"):
        return None
    return f"the first image has more {_plural(shape)} than the second .", wanted, scenes


# --- captions, and texts for pretraining ---------------------------------------------------------------------------------


def _caption(rng: random.Random, split: str, wanted: str) -> Question:
    """Everything in the scene with colour and place."""
    scene = scene_of(rng, split)
    return "what is in the image ?", caption(scene), [scene]


def _look_place(rng: random.Random, split: str, wanted: str) -> Question:
    """The item at a place of one of the images."""
    scenes = [scene_of(rng, split) for _ in range(draw(rng, (1, 2)))]
    which, place = int(rng.random() * len(scenes)), int(rng.random() * 4)
    item = scenes[which][place]
    image = f" of the {('first', 'second')[which]} image" if len(scenes) > 1 else ""
    return f"{PLACES[place]}{image}", "nothing" if item is None else " ".join(item), scenes


def _look_where(rng: random.Random, split: str, wanted: str) -> Question:
    """The places of a colour or a shape."""
    scene, feature = scene_of(rng, split), draw(rng, [*COLOURS, *SHAPES])
    places = [PLACES[p] for p in range(4) if scene[p] is not None and feature in scene[p]]
    return f"where is {feature}", " , ".join(places) or "nothing", [scene]


def _look_all(rng: random.Random, split: str, wanted: str) -> Question:
    """The items at the four places, empty ones as `nothing`."""
    scene = scene_of(rng, split)
    return "describe", " , ".join("nothing" if item is None else " ".join(item) for item in scene), [scene]


#: Task → kind of question → its answers in turn (none: the scene decides), and the function that draws a question.
KINDS: dict[str, dict[str, tuple[tuple[str, ...], Callable[[random.Random, str, str], Question]]]] = {
    "vqa": {
        "count": (("0", "1", "2"), _vqa_count),
        "colour": (tuple(COLOURS), _vqa_colour),
        "exists": (("yes", "no"), _vqa_exists),
        "relation": (("yes", "no"), _vqa_relation),
    },
    "gqa": {
        "colour": (tuple(COLOURS), _gqa_colour),
        "shape": (SHAPES, _gqa_shape),
        "same": (("yes", "no"), _gqa_same),
        "row": (("0", "1", "2"), _gqa_row),
    },
    "nlvr": {
        "both": (("true", "false"), _nlvr_both),
        "one": (("true", "false"), _nlvr_one),
        "more": (("true", "false"), _nlvr_more),
    },
    "caption": {"caption": ((), _caption)},
    "look": {"place": ((), _look_place), "where": ((), _look_where), "all": ((), _look_all)},
}


def vocabulary() -> list[str]:
    """Return every word and mark of the scenes, without repeats, in a fixed order."""
    words = [*COLOURS, *SHAPES, *(word for place in PLACES for word in place.split()), *WORDS]
    return list(dict.fromkeys(words))
