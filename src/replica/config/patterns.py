"""Names with parts in braces, the one pattern language of papers: `runs.full-{task}.glue-{task}.accuracy`.

A **name** is dotted; its parts hold letters, digits, `_`, single dashes and, between backticks, any other character. A **part**
is a word in braces anywhere in a name. Three things fill it:

- a set of the paper (`sets: {task: [cola, rte]}`): the name is repeated for every member, separated by commas; two parts of one
  set take the same member, two sets are multiplied out. A key of a mapping is repeated likewise, with its value; where the set
  gives its members labels (`sets: {arm: {one adapter: single}}`), the key is the label and the value has the member (`spread`);
- a word of the context: a run's `matrix`, the rows and columns of a CSV table, `{0}`, `{1}` for the keys of a cell (`fill`);
- otherwise, in figures, every value that is stored at that place of the name (`matches`).
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from replica.errors import ConfigError

#: Most names that one with sets stands for.
MOST_MEMBERS = 10_000
PART = re.compile(r"\{(\w+)\}")
_ATOM = r"(?:\w|`[^`]*`|\{\w+\})"
#: A whole name, with or without parts in braces.
NAME = re.compile(rf"{_ATOM}+(?:[.-]{_ATOM}+)*")

#: Members by the set's name; a mapping gives each member a label.
Sets = Mapping[str, Sequence[Any] | Mapping[str, Any]]


def parts(text: str) -> list[str]:
    """Return the words in braces, each once, in order."""
    return list(dict.fromkeys(PART.findall(text)))


def pattern(text: str) -> str | None:
    """Return the first name of an expression that has a part in braces, without backticks; None where there is none."""
    names = (match.group() for match in NAME.finditer(text))
    return next((name.replace("`", "") for name in names if PART.search(name)), None)


def matrix_names(key: str) -> list[str]:
    """Return the names of a key of a run's `matrix`: one, or several with commas, whose values come together."""
    return [name.strip() for name in str(key).split(",")]


def fill(value: Any, words: Mapping[str, Any]) -> Any:
    """Replace the parts that `words` has, in every string of a nested value and in the keys of its mappings.

    A string that is a single part becomes the word with its own type. Parts without a word stay.
    """
    if isinstance(value, str):
        whole = PART.fullmatch(value)
        if whole and whole[1] in words:
            return words[whole[1]]
        return PART.sub(lambda part: str(words.get(part[1], part[0])), value)
    if isinstance(value, dict):
        return {fill(key, words): fill(item, words) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [fill(item, words) for item in value]
    return value


def spread(value: Any, sets: Sets) -> Any:
    """Repeat each name that holds parts of `sets` for every member: in a string separated by commas, in a list as items.

    A mapping's key with such parts becomes a key for every member: its label, where the set has labels; its value has the member.
    """
    if isinstance(value, str):
        return NAME.sub(lambda name: ", ".join(map(str, _members(name.group(), sets))), value)
    if isinstance(value, dict):
        return {
            str(fill(key, labels)) if labels else key: spread(fill(item, words), sets)
            for key, item in value.items()
            for labels, words in _choices(str(key), sets)
        }
    if isinstance(value, list | tuple):
        return [each for item in value for each in _items(item, sets)]
    return value


def matches(name: str, stored: Iterable[str]) -> list[dict[str, str]]:
    """Return the parts of every stored name that fits a name with parts, in the order of `natural`."""
    texts, words = PART.split(name)[::2], PART.findall(name)
    groups = [f"(?P<{word}>[^.]+)" if word not in words[:i] else f"(?P={word})" for i, word in enumerate(words)]
    regex = re.compile("".join(itertools.chain(*itertools.zip_longest(map(re.escape, texts), groups, fillvalue=""))))
    hits = [hit.groupdict() for candidate in stored if (hit := regex.fullmatch(candidate))]
    return sorted(hits, key=lambda hit: [natural(part) for part in hit.values()])


def natural(text: str) -> list[tuple[int, float, str]]:
    """Return a sort key under which numbers in words count as numbers and come before letters."""
    return [(0, float(part), "") if part.isdigit() else (1, 0.0, part) for part in re.split(r"(\d+)", text) if part]


def _items(item: Any, sets: Sets) -> list[Any]:
    whole = isinstance(item, str) and NAME.fullmatch(item)
    return _members(item, sets) if whole else [spread(item, sets)]


def _members(name: str, sets: Sets) -> list[Any]:
    return [fill(name, words) for _, words in _choices(name, sets)]


def _choices(name: str, sets: Sets) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield by set the label and the member, for every combination of the sets of a name."""
    words = [word for word in parts(name) if word in sets]
    if math.prod(len(sets[word]) for word in words) > MOST_MEMBERS:
        raise ConfigError(f"'{name[:80]}' stands for more than {MOST_MEMBERS} names")
    members = [sets[word] if isinstance(sets[word], Mapping) else {item: item for item in sets[word]} for word in words]
    for labels in itertools.product(*members):
        yield (
            dict(zip(words, labels, strict=True)),
            {word: items[label] for word, items, label in zip(words, members, labels, strict=True)},
        )
