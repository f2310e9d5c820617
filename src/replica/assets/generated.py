"""The smoke data sets: seeded grammars whose labels follow a written rule, so that learning can be asserted."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from replica.assets import grammar, scenes
from replica.assets.grammar import draw, draw_some, seeded
from replica.assets.rows import Rows
from replica.errors import AssetError, nearest

Row = dict[str, Any]

#: Tags of `smoke-tagging` by number.
TAGS = ("O", "B-PER", "I-PER", "B-LOC", "B-THING")
#: Classes of `smoke-image` by number.
SHAPES = ("horizontal", "vertical", "diagonal", "square")
IMAGE_SIDE = 8
#: Rows drawn one after another that were there before, after which a grammar counts as used up.
MOST_REPEATS = 1000

_PAIR = {"id": pa.int64(), "sentence1": pa.string(), "sentence2": pa.string()}
_ANSWERS = pa.struct({"text": pa.list_(pa.string()), "answer_start": pa.list_(pa.int32())})
SCHEMAS: dict[str, pa.Schema] = {
    "sentiment": pa.schema({"id": pa.int64(), "text": pa.string(), "label": pa.int64()}),
    "pair": pa.schema({**_PAIR, "label": pa.int64()}),
    "similarity": pa.schema({**_PAIR, "label": pa.float32()}),
    "tagging": pa.schema({"id": pa.int64(), "tokens": pa.list_(pa.string()), "tags": pa.list_(pa.int64())}),
    "span": pa.schema(
        {"id": pa.string(), "title": pa.string(), "context": pa.string(), "question": pa.string(), "answers": _ANSWERS}
    ),
    "image": pa.schema({"image": pa.list_(pa.list_(pa.uint8())), "label": pa.int64()}),
    "scenes": scenes.SCHEMA,
    "text": pa.schema({"document": pa.string(), "position": pa.int64(), "kind": pa.string(), "text": pa.string()}),
}
DEFAULT_SIZES = {"train": 1200, "validation": 200, "test": 200}
#: Rows of each task of the scenes, by split; statements about two images are the smallest task.
DEFAULT_SCENES = {
    "train": {"vqa": 4000, "gqa": 4000, "nlvr": 800, "caption": 2000, "look": 8000},
    "validation": {"vqa": 300, "gqa": 300, "nlvr": 300, "caption": 300, "look": 300},
    "test": {"vqa": 600, "gqa": 600, "nlvr": 600, "caption": 300, "look": 300},
}


def generate(generator: str, seed: int, options: dict[str, Any]) -> dict[str, Rows]:
    """Make the splits of a generated data set.

    Parameters
    ----------
    generator
        sentiment, pair, similarity, tagging, span, image, text or scenes.
    seed
        everything follows from it.
    options
        `sizes`: rows (documents, for text; for scenes rows by task) per split; `unanswerable`: share of span questions without an
        answer.
    """
    makers: dict[str, Callable[..., Row | None]] = {
        "sentiment": _sentiment,
        "pair": _pair,
        "similarity": _similarity,
        "tagging": _tagging,
        "span": _span,
        "image": _image,
    }
    known = [*makers, "text", "scenes"]
    if generator not in known:
        raise AssetError(f"generated source: no generator {generator!r}{nearest(generator, known)}")
    allowed = {"sizes", "unanswerable"} if generator == "span" else {"sizes"}
    for option in options:
        if option not in allowed:
            raise AssetError(f"generator {generator!r}: no option {option!r}{nearest(option, allowed)}")
    sizes = {**(DEFAULT_SCENES if generator == "scenes" else DEFAULT_SIZES), **options.get("sizes", {})}
    extra = {key: value for key, value in options.items() if key != "sizes"}
    seen: set[str] = set()
    splits = {}
    for split, size in sizes.items():
        rng = seeded(seed, generator, split)
        if generator == "scenes":
            rows = [
                row
                for task, count in size.items()
                for row in scenes.rows_of(seeded(seed, split, task), task, count, split)
            ]
        elif generator == "text":
            rows = [row for number in range(size) for row in _document(rng, f"{split}-{number}")]
        else:
            rows = _different(makers[generator], rng, size, seen, extra, split)
        splits[split] = Rows.of(rows, SCHEMAS[generator])
    return splits


def _different(
    make: Callable[..., Row], rng: random.Random, size: int, seen: set[str], options: dict[str, Any], split: str
) -> list[Row]:
    """Draw rows until `size` of them differ from each other and from those of the splits before."""
    rows: list[Row] = []
    repeats = 0
    while len(rows) < size:
        row = make(rng, **options)
        if repr(row) not in seen:
            seen.add(repr(row))
            rows.append(row)
            repeats = 0
        elif (repeats := repeats + 1) == MOST_REPEATS:
            raise AssetError(f"a generator cannot make {size} different rows for {split!r}; ask for fewer in `sizes`")
    for number, row in enumerate(rows):
        if "context" in row:
            row["id"] = f"{split}-{number}"
        elif "image" not in row:
            row["id"] = number
    return rows


def _sentence(words: str) -> str:
    return words[0].upper() + words[1:] + "."


def _sentiment(rng: random.Random) -> Row:
    """One or three opinions; label 1 where the sum of their signs is above zero, else 0.

    A word of POSITIVE counts +1, one of NEGATIVE -1, and a negation right before it turns its sign.
    """
    parts, total = [], 0
    for aspect in draw_some(rng, grammar.ASPECTS, draw(rng, (1, 1, 3))):
        sign = draw(rng, (1, -1))
        word = draw(rng, grammar.POSITIVE if sign > 0 else grammar.NEGATIVE)
        if rng.random() < 0.25:
            word, sign = f"{draw(rng, grammar.NEGATIONS)} {word}", -sign
        parts.append(f"the {aspect} was {word}")
        total += sign
    if rng.random() < 0.5:
        parts.insert(int(rng.random() * (len(parts) + 1)), draw(rng, grammar.FILLERS))
    return {"text": _sentence(", ".join(parts)), "label": int(total > 0)}


def _fact(rng: random.Random) -> tuple[str, str, str]:
    return draw(rng, grammar.PEOPLE), draw(rng, grammar.COLOURS), draw(rng, grammar.THINGS)


def _pair(rng: random.Random) -> Row:
    """A fact and a statement; 0 (entailment) where the statement's colour and thing are the fact's, else 1.

    The statement never changes the person; in half of the false ones the colour is another, in half the thing.
    """
    person, colour, thing = _fact(rng)
    verb, place = draw(rng, grammar.VERBS), draw(rng, grammar.PLACES)
    premise = f"{person} {verb} the {colour} {thing} in the {place}"
    label = int(rng.random() < 0.5)
    if label and rng.random() < 0.5:
        colour = draw(rng, [other for other in grammar.COLOURS if other != colour])
    elif label:
        thing = draw(rng, [other for other in grammar.THINGS if other != thing])
    statement = f"{person} {verb} a {colour} {thing}"
    return {"sentence1": _sentence(premise), "sentence2": _sentence(statement), "label": label}


def _similarity(rng: random.Random) -> Row:
    """Two sentences of five drawn words; the score is how many of the five are equal in both: 0 to 5."""
    options = (grammar.PEOPLE, grammar.VERBS, grammar.COLOURS, grammar.THINGS, grammar.PLACES)
    first = [draw(rng, words) for words in options]
    same = draw_some(rng, range(5), int(rng.random() * 6))
    second = [
        word if index in same else draw(rng, [other for other in options[index] if other != word])
        for index, word in enumerate(first)
    ]
    texts = [_sentence("{} {} the {} {} in the {}".format(*words)) for words in (first, second)]
    return {"sentence1": texts[0], "sentence2": texts[1], "label": float(len(same))}


def _tagging(rng: random.Random) -> Row:
    """Person, place and thing names in a sentence, as numbers of TAGS.

    A word of PEOPLE is B-PER and the family name after it I-PER; THINGS are B-THING, PLACES B-LOC; a word of TWO_FOLD
    is B-PER after a title and B-LOC after a preposition; all else is O.
    """
    tagged: list[tuple[str, str]] = []
    if rng.random() < 0.4:
        tagged += [(draw(rng, grammar.TITLES), "O"), (draw(rng, grammar.TWO_FOLD), "B-PER")]
    else:
        tagged.append((draw(rng, grammar.PEOPLE), "B-PER"))
        if rng.random() < 0.5:
            tagged.append((draw(rng, grammar.FAMILIES), "I-PER"))
    tagged += [(draw(rng, grammar.VERBS), "O"), ("the", "O")]
    if rng.random() < 0.5:
        tagged.append((draw(rng, grammar.COLOURS), "O"))
    tagged += [(draw(rng, grammar.THINGS), "B-THING"), (draw(rng, grammar.PREPOSITIONS), "O")]
    if rng.random() < 0.5:
        tagged.append((draw(rng, grammar.TWO_FOLD), "B-LOC"))
    else:
        tagged += [("the", "O"), (draw(rng, grammar.PLACES), "B-LOC")]
    tagged.append((".", "O"))
    return {"tokens": [word for word, _ in tagged], "tags": [TAGS.index(tag) for _, tag in tagged]}


def _span(rng: random.Random, unanswerable: float = 0.0) -> Row:
    """Things and where they are; the answer to "Where is the X?" is the place named right after X's "is in the".

    With `unanswerable`, that share of the questions asks for a thing that the context does not name: no answers.
    """
    count = draw(rng, (2, 3))
    things = draw_some(rng, grammar.THINGS, count + 1)
    places = draw_some(rng, grammar.PLACES, count)
    sentences = [f"The {thing} is in the {place}." for thing, place in zip(things, places, strict=False)]
    context = " ".join(sentences)
    number = count if rng.random() < unanswerable else int(rng.random() * count)
    answers: dict[str, list[Any]] = {"text": [], "answer_start": []}
    if number < count:
        start = context.index(f"The {things[number]} is in the ") + len(f"The {things[number]} is in the ")
        answers = {"text": [places[number]], "answer_start": [start]}
    return {"title": "places", "context": context, "question": f"Where is the {things[number]}?", "answers": answers}


def _image(rng: random.Random) -> Row:
    """An 8x8 grey image of one bright shape on a dim noisy ground; the label is its number in SHAPES.

    A bar of 5 pixels lying, standing or falling from the left, or the outline of a 4x4 square, anywhere in the image.
    """
    label = int(rng.random() * len(SHAPES))
    height, width = ((1, 5), (5, 1), (5, 5), (4, 4))[label]
    top = int(rng.random() * (IMAGE_SIDE - height + 1))
    left = int(rng.random() * (IMAGE_SIDE - width + 1))
    image = [[int(rng.random() * 64) for _ in range(IMAGE_SIDE)] for _ in range(IMAGE_SIDE)]
    for row in range(height):
        for column in range(width):
            edge = row in (0, height - 1) or column in (0, width - 1)
            if (label == 2 and row == column) or (label != 2 and edge):
                image[top + row][left + column] = 192 + int(rng.random() * 64)
    return {"image": image, "label": label}


def _document(rng: random.Random, name: str) -> list[Row]:
    """Four to seven sentences about one person in one place: two sentences of a document share both names.

    So a next sentence can be told from one of another document, and a masked name from the sentences around it.
    """
    person, place = draw(rng, grammar.PEOPLE), draw(rng, grammar.PLACES)
    sentences = [f"{person} was in the {place}"]
    for _ in range(draw(rng, (3, 4, 5, 6))):
        thing, colour, verb = draw(rng, grammar.THINGS), draw(rng, grammar.COLOURS), draw(rng, grammar.VERBS)
        other = draw(rng, [friend for friend in grammar.PEOPLE if friend != person])
        shapes = (
            f"{person} {verb} the {colour} {thing} in the {place}",
            f"in the {place} {person} {verb} a {thing} with {other}",
            f"then {person} left the {colour} {thing} in the {place} for {other}",
        )
        sentences.append(draw(rng, shapes))
    return [
        {"document": name, "position": position, "kind": "story", "text": _sentence(text)}
        for position, text in enumerate(sentences)
    ]
