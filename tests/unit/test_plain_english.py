"""Names and prose of the code: nouns for variables, and words that hide their noun are rare."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

import replica

SOURCE = Path(replica.__file__).parent
#: Participles say nothing of the value: name the thing (`runs`, `claims`, `config`).
PARTICIPLES = {"found", "given", "asked", "made", "kept", "said"}
#: At most so many of each per 10,000 words of docstrings and comments; other code bases of the field have 0 to 8.
MOST = 15
WORDS = {
    "what": r"\bwhat\b",
    "stand, stands": r"\bstands?\b",
    "beside, besides": r"\bbesides?\b",
    "said, says": r"\b(said|says)\b",
}


@pytest.fixture(scope="module")
def modules() -> dict[Path, tuple[str, ast.Module]]:
    texts = {path: path.read_text(encoding="utf-8") for path in sorted(SOURCE.rglob("*.py"))}
    return {path: (text, ast.parse(text)) for path, text in texts.items()}


def _prose(text: str, tree: ast.Module) -> str:
    """Return the docstrings and comments of a module."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = [ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, documented)]
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return " ".join([*docstrings, *(token.string for token in tokens if token.type == tokenize.COMMENT)])


@pytest.mark.parametrize("word", WORDS)
def test_vague_words_are_rare(modules, word):
    prose = {path: _prose(text, tree) for path, (text, tree) in modules.items()}
    total = sum(len(re.findall(r"[A-Za-z']+", text)) for text in prose.values())
    uses = {path: len(re.findall(WORDS[word], text, re.IGNORECASE)) for path, text in prose.items()}
    most = sorted(uses, key=uses.get, reverse=True)[:5]
    rate = 1e4 * sum(uses.values()) / total
    assert rate < MOST, f"{rate:.1f} per 10,000 words, most in {[str(path.relative_to(SOURCE)) for path in most]}"


def test_no_variable_is_a_participle(modules):
    places = [
        f"{path.relative_to(SOURCE)}:{node.lineno}"
        for path, (_, tree) in modules.items()
        for node in ast.walk(tree)
        if (isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id in PARTICIPLES)
        or (isinstance(node, ast.arg) and node.arg in PARTICIPLES)
    ]
    assert not places
