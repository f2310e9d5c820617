"""The words of the smoke data sets and the seeded draws that all their generators share."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

POSITIVE = ("good", "great", "lovely", "brilliant", "charming", "superb", "moving", "fresh")
NEGATIVE = ("bad", "awful", "dull", "clumsy", "boring", "poor", "empty", "rotten")
NEGATIONS = ("not", "never")
ASPECTS = ("acting", "plot", "music", "story", "ending", "camera", "dialogue", "cast")
FILLERS = ("the film ran for two hours", "we saw it on monday", "it was made in the city", "a friend came along")
PEOPLE = ("anna", "tom", "maria", "omar", "lena", "peter", "ruth", "ivan")
FAMILIES = ("stone", "rivers", "woods", "fields")
PLACES = ("kitchen", "garden", "office", "library", "station", "market", "school", "tower")
THINGS = ("lamp", "key", "book", "cup", "coat", "drum", "clock", "ball")
COLOURS = ("red", "green", "blue", "white")
#: Names that are a person or a place; the word before them decides.
TWO_FOLD = ("paris", "florence", "sydney", "austin")
TITLES = ("mr", "mrs", "doctor", "captain")
PREPOSITIONS = ("in", "near", "from", "to")
VERBS = ("saw", "carried", "painted", "found", "sold", "kept")
FUNCTION_WORDS = (
    "a", "the", "it", "is", "was", "were", "where", "who", "what", "did", "does", "of", "and", "but", "on", "with",
    "left", "for", "then", "there",
)  # fmt: skip
#: Words that tasks put before inputs or generate as labels when they read a data set as text-to-text.
TASK_WORDS = (
    "sentiment", "sentence", "pair", "premise", "hypothesis", "question", "context", "answer", "label", "classify",
    "review", "text", "first", "second", "one", "two", "negative", "positive", "yes", "no", "true", "false", "maybe",
    "entailment", "not_entailment", "neutral", "contradiction", "equivalent", "different", "same", "similar", "zero",
    "three", "four", "five", "0", "1", "2", "3", "4", "5",
)  # fmt: skip


def draw(rng: random.Random, options: Sequence[T]) -> T:
    """Draw one option; uses only `random()`, whose sequence for a seed is the same in every version of Python."""
    return options[int(rng.random() * len(options))]


def draw_some(rng: random.Random, options: Sequence[T], count: int) -> list[T]:
    """Draw `count` different options in drawn order."""
    left = list(options)
    return [left.pop(int(rng.random() * len(left))) for _ in range(count)]


def seeded(seed: int, *names: str) -> random.Random:
    """Return a generator of its own for a purpose."""
    digest = hashlib.sha256(":".join((str(seed), *names)).encode()).digest()
    return random.Random(int.from_bytes(digest[:8]))


def vocabulary() -> list[str]:
    """Return every word and mark that a smoke data set can hold, without repeats, in a fixed order."""
    groups = (POSITIVE, NEGATIVE, NEGATIONS, ASPECTS, PEOPLE, FAMILIES, PLACES, THINGS, COLOURS, TWO_FOLD, TITLES)
    words = [word for group in (*groups, PREPOSITIONS, VERBS, FUNCTION_WORDS, TASK_WORDS) for word in group]
    words += [word for filler in FILLERS for word in filler.split()] + [".", ",", "?", ":", "!"]
    return list(dict.fromkeys(words))
