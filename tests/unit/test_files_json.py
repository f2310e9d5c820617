"""JSON is read strictly, by one function, and every fault is blamed on its file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from replica.errors import AssetError, ResultError
from replica.files import parse_json, read_json, read_result

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "text, reason",
    [
        ("[" * 200_000, "nested too deeply"),
        ('{"a": {"b": 1, "c": 2, "b": 3}}', "the key 'b' comes twice"),
        ('{"value": 1e999}', "1e999 is beyond the range of numbers"),
        ('{"value": NaN}', "NaN is not a number"),
        ('{"value": -Infinity}', "-Infinity is not a number"),
        ("9" * 5000, "digits"),
        ('{"value": ', "Expecting value"),
        (b'{"value": "\xff"}', "can't decode"),
    ],
)
def test_what_is_no_exact_json_is_blamed_on_its_file(tmp_path, text, reason):
    with pytest.raises(ResultError, match=rf"x\.json: corrupt, not JSON \(.*{reason}.*\); again"):
        parse_json(text, "x.json", again="again")
    path = tmp_path / "y.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(AssetError, match=rf"y\.json: corrupt, not JSON \(.*{reason}"):
        read_json(path, AssetError)


@pytest.mark.parametrize(
    "text, fault",
    [
        ('{"parts": "x"}', '`parts` is "x", which is no int; mend it'),
        ('{"parts": true}', "`parts` is true, which is no int"),
        ('{"parts": 2.5}', "`parts` is 2.5, which is no int"),
        ('{"parts": 2, "attempt": []}', r"`attempt` is \[\], which is no int"),
        ('{"attempt": 1}', "lacks `parts`"),
        ('["parts"]', "lacks `parts`"),
    ],
)
def test_values_of_a_wrong_type_are_named(tmp_path, text, fault):
    path = tmp_path / "memory.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ResultError, match=rf"memory\.json: corrupt, {fault}"):
        read_result(path, {"parts": int}, "mend it", {"attempt": int})
    path.write_text('{"parts": 2}', encoding="utf-8")
    assert read_result(path, {"parts": float}, optional={"attempt": int}) == {"parts": 2}


def test_json_is_read_by_one_function():
    """Another reader would take duplicate keys, and numbers that are none."""
    sources = [path for folder in ("src", "scripts") for path in (ROOT / folder).rglob("*.py")]
    found = [path.name for path in sources if re.search(r"json\.loads?\(", path.read_text(encoding="utf-8"))]
    assert sorted(found) == ["cards.py", "files.py"]  # a card shows one to its readers
