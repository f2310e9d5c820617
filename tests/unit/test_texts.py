"""What all code does with texts: files and programs are read with a named encoding, and values printed through rich are no markup."""

from __future__ import annotations

import ast
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.table import Table

from replica.cli.terminal import plain_console

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [
    path
    for name in ("src", "scripts", "benchmarks", "metrics", "tests")
    for path in sorted((ROOT / name).rglob("*.py"))
]
#: Calls that start a program; ruff's own rule (PLW1514, a preview that changes other rules too) does not see what they decode.
PROGRAMS = {"run", "Popen", "check_output", "check_call"}
#: Where the only console is made, which takes no text for markup.
TERMINAL = ROOT / "src" / "replica" / "cli" / "terminal.py"


def _calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield getattr(node.func, "attr", getattr(node.func, "id", "")), node


def _in_locale(name: str, call: ast.Call) -> bool:
    """Return whether a call decodes or encodes text and leaves it to the locale how."""
    named = {keyword.arg: keyword.value for keyword in call.keywords}
    if {None, "encoding"} & set(named):
        return False
    if name in PROGRAMS:
        return bool({"text", "universal_newlines"} & set(named))
    method = isinstance(call.func, ast.Attribute)
    if name in ("open", "fdopen"):
        given = call.args[0 if method and name == "open" else 1 :] or [named.get("mode", ast.Constant("r"))]
        return isinstance(given[0], ast.Constant) and isinstance(given[0].value, str) and "b" not in given[0].value
    return method and ((name == "read_text" and not call.args) or (name == "write_text" and len(call.args) == 1))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_texts_name_their_encoding_and_no_console_takes_markup(path):
    wrong = [call.lineno for name, call in _calls(path) if _in_locale(name, call)]
    assert not wrong, f"lines {wrong}: without `encoding=` the locale decides"
    if path != TERMINAL and not path.is_relative_to(ROOT / "tests"):
        consoles = [call.lineno for name, call in _calls(path) if name in ("Console", "from_markup", "render_markup")]
        assert not consoles, f"lines {consoles}: `plain_console` prints values as they are"
        marked = [call.lineno for _, call in _calls(path) if {"markup", "emoji"} & {word.arg for word in call.keywords}]
        assert not marked, f"lines {marked}: markup is off everywhere"


@pytest.mark.parametrize("said", ["GFLOPs [min, max]", "[bold]x[/bold]", "[/]", "a:cat:b", "\\[x]"])
def test_a_value_is_printed_as_it_is_by_itself_and_in_every_part_of_a_table(said):
    out = io.StringIO()
    console = plain_console(file=out, width=80)
    table = Table(title=said, caption=said)
    table.add_column(said, footer=said)
    table.add_row(said, style="bold")
    console.print(said)
    console.print(table)
    assert out.getvalue().count(said) == 5, "line, title, header, cell, caption"
