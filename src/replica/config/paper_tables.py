"""Tables of a paper's folder: a claim's `value` from a CSV file, and its `ours` from templates over rows and columns.

    size,  method,  run:,    SQuAD2,   MNLI-m
    task:,       ,      ,    squad-v2, glue-mnli
    6x384, MiniLM,  minilm,  72.4,     82.2
    6x384, MLM-KD,  ,        67.9,     79.6

The first columns name a row (`keys: [size, method]`), the others hold the printed numbers; an empty cell was not printed. A column
or a row whose name ends in a colon holds words. In the template `runs.{run}-{size}.{task}.accuracy` a part is such a word, a row's
key by the name of its column, or `{column}`. A cell without one of the words has no `ours`: here those of MLM-KD.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from replica.config.patterns import fill, parts
from replica.config.strict import Strict
from replica.config.validation import validate
from replica.config.yaml_files import MOST_DIGITS, read_text
from replica.errors import ConfigError, nearest
from replica.files import visible

_INTEGER = re.compile(r"-?\d+")
_DECIMAL = re.compile(r"-?\d*\.\d+(?:[eE][-+]?\d+)?|-?\d+\.?[eE][-+]?\d+")
#: In a template: every key of its level that has no entry of its own.
EACH = "each"


class CsvTable(Strict):
    """The printed table behind a claim's `value`: a CSV file of the paper's folder, or some of its rows and columns.

    A list keeps its level of keys; a single name takes that row or column alone, without the level.
    """

    file: str = Field(pattern=r"^[\w.+-]+\.csv$")
    keys: list[str] = Field([], description="the leading columns that name a row; the first when absent")
    rows: str | list[str] | None = Field(None, description="by the first key; all when absent")
    columns: str | list[str] | None = Field(None, description="all when absent")


@dataclass(frozen=True)
class Leaf:
    """A cell: the printed number (or text), and the words that templates may use for it."""

    value: Any
    words: dict[str, str]


#: A table as nested mappings (lists where the configuration has lists) of leaves.
Nested = Leaf | dict[str, Any] | list[Any]


def nested(value: Any) -> Nested:
    """Return a claim's `value` as a table whose cells have no words."""
    if isinstance(value, dict):
        return {key: nested(item) for key, item in value.items()}
    return [nested(item) for item in value] if isinstance(value, list) else Leaf(value, {})


def numbers(table: Nested) -> Any:
    """Return the numbers of a table in its shape, as `value` has them."""
    if isinstance(table, dict):
        return {key: numbers(item) for key, item in table.items()}
    return [numbers(item) for item in table] if isinstance(table, list) else table.value


def read_table(folder: Path, content: Any, sets: Container[str], where: str) -> Nested:
    """Return the rows and columns of a CSV file that `content` (a `CsvTable`) names; ConfigError names file and line or key."""
    spec = validate(CsvTable, content, where)
    path = folder / spec.file
    if not path.is_file():
        raise ConfigError(
            f"{where}: {spec.file}: no such file{nearest(spec.file, [p.name for p in visible(folder, '*.csv')])}"
        )
    where = f"{where}: {spec.file}"
    try:
        lines = list(csv.reader(read_text(path).splitlines()))
    except csv.Error as error:
        raise ConfigError(f"{where}: is no CSV table: {error}") from None
    header, depth = lines[0] if lines else [], len(spec.keys) or 1
    keys, columns = header[:depth], header[depth:]
    if spec.keys and keys != spec.keys:
        raise ConfigError(f"{where}: the first columns are {', '.join(keys)}, not {', '.join(spec.keys)}")
    row_words = [name for name in columns if name.endswith(":")]
    chosen = _choice(spec.columns, [name for name in columns if name not in row_words], f"{where}: column")
    column_words: dict[str, dict[str, str]] = {}
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    for number, line in enumerate(lines[1:], start=2):
        if len(line) != len(header):
            raise ConfigError(f"{where}: line {number} has {len(line)} cells, the first line {len(header)}")
        row, cells = tuple(line[:depth]), dict(zip(columns, line[depth:], strict=True))
        if row in rows or row[0][:-1] in column_words:
            raise ConfigError(f"{where}: line {number}: there are two rows '{', '.join(row)}'")
        if row[0].endswith(":"):
            column_words[row[0][:-1]] = cells
        else:
            rows[row] = cells
    for word in (*keys, *(name[:-1] for name in row_words), *column_words):
        if word in sets:
            raise ConfigError(f"{where}: '{word}' is also a set of the paper; rename one of them")
    wanted = _choice(spec.rows, list(dict.fromkeys(row[0] for row in rows)), f"{where}: row")
    table: dict[str, Any] = {}
    for row in sorted((row for row in rows if row[0] in wanted), key=lambda row: wanted.index(row[0])):
        cells = rows[row]
        inner = table
        for key in row:
            inner = inner.setdefault(key, {})
        of_row = {**dict(zip(keys, row, strict=True)), **{name[:-1]: cells[name] for name in row_words}}
        for column in chosen:
            if cells[column]:
                of_column = {name: words[column] for name, words in column_words.items()}
                number = _number(cells[column])
                if isinstance(number, int | float) and not abs(number) < 10**MOST_DIGITS:
                    raise ConfigError(f"{where}: {', '.join(row)}, {column}: {cells[column][:40]} is beyond any number")
                inner[column] = Leaf(number, {**of_row, **of_column, "column": column})
    if isinstance(spec.columns, str):
        table = _without_columns(table, depth)
    return table[spec.rows] if isinstance(spec.rows, str) else table


def expand_ours(node: Any, table: Nested, where: str) -> Any:
    """Return `ours` with its templates filled: an expression for every cell of a table that a template with words covers.

    `each` holds for every key of its level, except where a key's own entry differs. Texts without words stay as they are.
    """
    if isinstance(node, dict):
        if not isinstance(table, dict):
            return node
        own = {str(key): item for key, item in node.items() if key != EACH}
        default = _checked(node.get(EACH), table.values(), f"{where}.{EACH}")
        inner = {
            key: expand_ours(_over(own.pop(str(key), None), default(item)), item, f"{where}.{key}")
            for key, item in table.items()
        }
        return {**{key: item for key, item in inner.items() if item not in (None, {})}, **own}
    if not isinstance(node, str):
        return node
    named = [part for part in parts(node) if not part.isdigit()]
    if not named:
        return node
    if isinstance(table, dict):
        inner = {key: expand_ours(node, item, where) for key, item in table.items()}
        return {key: item for key, item in inner.items() if item not in (None, {})}
    words = table.words if isinstance(table, Leaf) else {}
    for part in named:
        if part not in words:
            raise ConfigError(f"{where}: '{{{part}}}' is neither a set nor a word of the table{nearest(part, words)}")
    return fill(node, words) if all(words[part] for part in named) else None


def _over(own: Any, default: Any) -> Any:
    """Return a key's own entry, completed from `each`."""
    if isinstance(own, dict) and isinstance(default, dict):
        return {**default, **own}
    return default if own is None else own


def _checked(node: Any, tables: Iterable[Nested], where: str) -> Callable[[Nested], Any]:
    """Return `each` as a function of the table below it: without the keys that this table lacks and another one has."""
    if not isinstance(node, dict):
        return lambda table: node
    known = {str(key) for table in tables if isinstance(table, dict) for key in table} | {EACH}
    for key in node:
        if str(key) not in known:
            raise ConfigError(f"{where}: no row has '{key}'{nearest(str(key), known)}")
    return lambda table: {key: item for key, item in node.items() if key == EACH or str(key) in map(str, table)}


def _choice(wanted: str | list[str] | None, known: list[str], where: str) -> list[str]:
    names = known if wanted is None else [wanted] if isinstance(wanted, str) else wanted
    for name in names:
        if name not in known:
            raise ConfigError(f"{where}: unknown '{name}'{nearest(name, known)}")
    return names


def _without_columns(table: dict[str, Any], depth: int) -> dict[str, Any]:
    if depth == 0:
        return next(iter(table.values()))
    return {key: _without_columns(item, depth - 1) for key, item in table.items() if item}


def _number(text: str) -> Any:
    if _INTEGER.fullmatch(text):
        return int(text[: MOST_DIGITS + 2])
    if _DECIMAL.fullmatch(text):
        return float(text)
    return None if text == "null" else text
