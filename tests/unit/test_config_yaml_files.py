"""A file that is damaged, hostile or too large is one line that names the file; what it holds is plain data."""

from __future__ import annotations

import os

import pytest

from replica.assets.layout import declared_files
from replica.config.yaml_files import MOST_BYTES, read_yaml
from replica.errors import AssetError, ConfigError

BOMB = "a: &a [x, x]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}]\n"
    for a, b in zip("abcdefghi", "bcdefghij", strict=True)
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: André".encode("latin-1"), r"not UTF-8 \(line 1\)"),
        ("a: b".encode("utf-16"), "not UTF-8"),
        (b"x: 1\nscale: {{x}}", r"line 2\): a key is no word or number"),
        (b"? [a]\n: b", "a key is no word or number"),
        (b"~: 3", "a key is no word or number"),
        (b"a: !!timestamp 2026-99-99", r"line 1\): '2026-99-99' is no date"),
        (b"a: !!int abc", "'abc' is no whole number"),
        (b"a: !!bool nope", "'nope' is no truth value"),
        (b"a: !!float abc", "'abc' is no number"),
        (b"a: !!map x", "expected a mapping"),
        (b"a: " + b"9" * 5000, "is no whole number of at most 18 digits"),
        (b"a: {b: 9999999999999999999}", "a.b: a number has at most 18 digits"),
        (b"[" * 100_000, "nested more than 50 levels"),
        (b"a: " + b"[" * 400 + b"]" * 400, "nested more than 50 levels"),
        (b"- " * 100_000, "nested more than 50 levels"),
        (b"? " * 5000, "nested more than 50 levels"),
        ("\n".join(" " * i + "a:" for i in range(500)).encode(), "nested more than 50 levels"),
        (b"a: .nan", "a: nan is no finite number"),
        (b"a: [1, {b: -.inf}]", r"a\.1\.b: -inf is no finite number"),
        (b"a: 1e999", "a: inf is no finite number"),
        (b"a: &a [*a]", "recursive"),
        (b"a: !!set {x}", "got set"),
        (b"a: !!binary aGk=", "got bytes"),
        (b'a: "\\0"', "holds a character"),
        (b"a: \0", "not valid YAML"),
        (b"a: 1\n---\nb: 2", "another document"),
        (BOMB.encode(), "holds more than 500000 values"),
        (b"#" * (MOST_BYTES + 1), "is larger than"),
    ],
)
def test_damage_is_one_line_with_the_file(tmp_path, content, message):
    file = tmp_path / "x.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        read_yaml(file)
    assert str(caught.value).startswith(str(file)) and "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_what_is_no_file_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    for path in (tmp_path / "pipe.yaml", tmp_path, "/dev/zero"):
        with pytest.raises(ConfigError, match="it is no file"):
            read_yaml(type(tmp_path)(path))


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (b"\xef\xbb\xbfa: b", {"a": "b"}),  # Windows' mark of UTF-8
        (b"a: 2026-99-99", {"a": "2026-99-99"}),  # text, as every date here is
        (b'a: "' + b"[" * 100 + b'"', {"a": "[" * 100}),
        (b"a: [1e-4, 0x10, 1_000]", {"a": [1e-4, 16, 1000]}),
        (b"", None),
    ],
)
def test_what_is_fine_is_read(tmp_path, content, value):
    (tmp_path / "x.yaml").write_bytes(content)
    assert read_yaml(tmp_path / "x.yaml") == value


@pytest.mark.parametrize(
    "front",
    ["configs: 5", "configs: [5]", "configs: {a: b}", "date: !!timestamp 2026-99-99", "a: &a [*a]", "{[x]: y}",
     "configs: [{data_files: [{split: [x], path: y}]}]", "configs: [{data_files: [{split: x, path: 5}]}]",
     "configs: [{data_files: [{split: x}]}]", "configs: [{data_files: [{split: x, path: [5]}]}]", "[" * 100_000],
)  # fmt: skip
def test_a_damaged_repository_is_named(front):
    with pytest.raises(AssetError, match=r"README\.md"):
        declared_files(f"---\n{front}\n---\n", None)


@pytest.mark.parametrize("front", ["5", "[configs]", "date: 2026-99-99", "configs: []", "configs:"])
def test_a_repository_may_declare_nothing(front):
    assert declared_files(f"---\n{front}\n---\n", None) == {}
