"""The language of claims: names with digits and dashes, arithmetic, and errors a person can mend."""

from __future__ import annotations

import subprocess
import sys

import pytest

from replica.claims.expressions import UnknownName, evaluate, names, parse, quoted, split_run
from replica.errors import ConfigError

KNOWN = {"bert-base.parameters.total": 100.0, "6x768.flops.total": 8.0, "a": 7.0, "b": 2.0, "a-b": 50.0, "c++.x": 3.0}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("bert-base.parameters.total", 100),
        ("6x768.flops.total", 8),
        ("bert-base.parameters.total / 6x768.flops.total", 12.5),
        ("1 + 2 * 3", 7),
        ("(1 + 2) * 3", 9),
        ("2 ** 3 ** 2", 512),
        ("-2 ** 2", -4),
        ("2 ** -1", 0.5),
        ("10 - 4 - 3", 3),
        ("10-4", 6),
        ("1e3 * 2.5", 2500),
        ("a - b", 5),
        ("a-b", 50),
        ("a -b", 5),
        ("a - -b", 9),
        ("`c++`.x * 2", 6),
        ("round(bert-base.parameters.total / 7, 2)", 14.29),
        ("round(2.6)", 3),
        ("min(a, b, 9) + max(a, b)", 9),
        ("mean(1, 2, 6)", 3),
        ("abs(b - a)", 5),
        ("log2(6x768.flops.total)", 3),
    ],
)
def test_value_of_expression(text, value):
    assert evaluate(text, KNOWN) == pytest.approx(value, rel=1e-12)


def test_names_are_listed_without_a_value():
    text = "100 * (runs.student-6x384.glue-sst2.accuracy - runs.`x y`.t.f1) / max(12-layer.total, 3)"
    assert names(text) == {"runs.student-6x384.glue-sst2.accuracy", "runs.x y.t.f1", "12-layer.total"}


def test_unknown_name_gives_the_nearest():
    with pytest.raises(UnknownName, match=r"'bert-base.parameters.totl'; did you mean 'bert-base.parameters.total'"):
        evaluate("bert-base.parameters.totl", KNOWN)


def test_missing_spaces_around_a_minus_are_explained():
    with pytest.raises(UnknownName, match="a minus between names needs spaces"):
        evaluate("a-c", {"a": 1.0, "c": 2.0})


def test_unknown_function_gives_the_nearest():
    with pytest.raises(ConfigError, match="unknown function 'rund'; did you mean 'round'"):
        parse("rund(1)")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1 +",
        "a b",
        "__import__('os')",
        "a[0]",
        "a if b else 1",
        "lambda: 1",
        "a < b",
        "a % b",
        "a // b",
        "1, 2",
        "{0}",
    ],
)
def test_what_is_not_arithmetic_is_an_error(text):
    with pytest.raises(ConfigError):
        evaluate(text, KNOWN)


@pytest.mark.parametrize("text", ["1 / 0", "log2(0)", "9 ** 9 ** 9", "(-8) ** 0.5", "1e308 * 10", "abs(1, 2)", "min()"])
def test_numbers_that_are_none_are_errors(text):
    with pytest.raises(ConfigError):
        evaluate(text, KNOWN)


def test_run_name_is_the_longest_that_fits():
    assert split_run("runs.a.b.task.f1", ["a", "a.b"]) == ("a.b", "task.f1")
    with pytest.raises(UnknownName, match="did you mean 'student'"):
        split_run("runs.studnt.task.f1", ["student"])


def test_keys_are_quoted_only_where_they_must():
    assert [quoted(key) for key in ("6x768", "v1.1", "c++", "mean of 11")] == ["6x768", "v1.1", "`c++`", "`mean of 11`"]


def test_the_language_needs_no_heavy_library():
    code = "import sys, replica.claims.expressions, replica.claims.cells; print({'torch','pandas','scipy','numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.strip() == "set()"
