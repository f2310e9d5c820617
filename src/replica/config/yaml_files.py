"""Reading YAML: the safe loader, and plain data of bounded size alone; every error is one line with the file."""

from __future__ import annotations

import math
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from replica.errors import ConfigError

#: Most bytes of a configuration file, values in it (those behind an alias count each time), levels of nesting, and digits of a number.
MOST_BYTES, MOST_VALUES, MOST_LEVELS, MOST_DIGITS = 4_000_000, 500_000, 50, 18


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """The safe loader, which also refuses duplicate keys, reads 1e-4 as a number and a date as text."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def _error(problem: str, node: yaml.Node) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def _mapping(loader: _Loader, node: yaml.Node, deep: bool = False) -> dict:
    if not isinstance(node, yaml.MappingNode):
        raise _error("expected a mapping", node)
    seen: set[Any] = set()
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":
            continue
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str | int | float):
            raise _error("a key is no word or number", key_node)
        if key in seen:
            raise _error(f"key '{key}' is given twice", key_node)
        seen.add(key)
    loader.flatten_mapping(node)
    return {loader.construct_object(k, deep=True): loader.construct_object(v, deep=True) for k, v in node.value}


def _scalar(tag: str, words: str) -> None:
    """Let the loader name the line where a value is none of its type, be it that the type was given or guessed."""
    construct = yaml.SafeLoader.yaml_constructors[tag]

    def read(loader: _Loader, node: yaml.Node) -> Any:
        try:
            return construct(loader, node)
        except (ValueError, LookupError, AttributeError):
            raise _error(f"'{str(node.value)[:40]}' is no {words}", node) from None

    _Loader.add_constructor(tag, read)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
_scalar("tag:yaml.org,2002:int", f"whole number of at most {MOST_DIGITS} digits")
_scalar("tag:yaml.org,2002:float", "number")
_scalar("tag:yaml.org,2002:bool", "truth value (true or false)")
_scalar("tag:yaml.org,2002:timestamp", "date")
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def read_text(path: Path) -> str:
    """Return the text of a configuration file; raises ConfigError for what is no file, is too large or is not UTF-8."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"{path}: cannot be read: it is no file")
        if status.st_size > MOST_BYTES:
            raise ConfigError(f"{path}: is larger than the {MOST_BYTES // 10**6} MB that a configuration file may have")
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}: is not UTF-8 (line {line}); save it in that encoding") from None


def read_yaml(path: Path) -> Any:
    """Return a YAML file's content: mappings, lists, texts, truth values and numbers; raises ConfigError naming file and line."""
    return parse_yaml(read_text(path), str(path))


def parse_yaml(text: str, where: str) -> Any:
    """Return what `read_yaml` does for a text; `where` begins its errors."""
    try:
        _check_nesting(text)
        value = yaml.load(text, Loader=_Loader)  # a subclass of the safe loader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" (line {mark.line + 1})" if mark else ""
        reason = " ".join(str(getattr(error, "problem", None) or error).split())
        raise ConfigError(f"{where}: not valid YAML{line}: {reason[:300]}") from None
    for count, problem in enumerate(_problems(value, (), ())):
        if problem or count > MOST_VALUES:
            raise ConfigError(
                f"{where}: {problem or f'holds more than {MOST_VALUES} values, counting those of aliases'}"
            )
    return value


#: What may nest: brackets, and the marks that begin lists and mappings at the start of a line.
_BRACKET, _MARKS = re.compile(r"[\[\]{}]"), re.compile(rf"^[ ?:-]{{{2 * MOST_LEVELS},}}", re.MULTILINE)


def _check_nesting(text: str) -> None:
    """Raise YAMLError for text that nests too deep: the library reads levels one inside the other until its stack is full."""
    depth = deepest = 0
    for bracket in _BRACKET.finditer(text):
        depth = depth + 1 if bracket[0] in "[{" else max(0, depth - 1)
        deepest = max(deepest, depth)
    if deepest <= MOST_LEVELS and not _MARKS.search(text):
        return
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):  # brackets may stand in texts: only the events tell
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MOST_LEVELS:
            raise yaml.YAMLError(f"nested more than {MOST_LEVELS} levels deep (line {event.start_mark.line + 1})")


def _problems(value: Any, key: tuple[str, ...], above: tuple[int, ...]) -> Iterator[str]:
    """Give for each value what is wrong with it, or an empty text."""
    where = ".".join(key) or "the content"
    if isinstance(value, dict | list):
        if id(value) in above:
            yield f"{where}: an alias stands inside of what it names"
            return
        yield ""
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for name, inner in items:
            if isinstance(value, dict):
                yield from _problems(name, (*key, str(name)[:80]), above)
            yield from _problems(inner, (*key, str(name)[:80]), (*above, id(value)))
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{where}: {value} is no finite number"
    elif isinstance(value, int) and abs(value) >= 10**MOST_DIGITS:
        yield f"{where}: a number has at most {MOST_DIGITS} digits"
    elif isinstance(value, str) and (
        "\0" in value or (not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value))
    ):
        yield f"{where}: holds a character that no text may have"
    elif value is None or isinstance(value, str | int | float):
        yield ""
    else:
        yield f"{where}: expected text, a number, true or false, a list or a mapping, got {type(value).__name__}"
