"""Claims' values as cells."""

from __future__ import annotations

import pytest

from replica.claims.cells import by_cell, cells, printed_digits, row_name, tolerance_of
from replica.config.schema import Claim, Tolerance
from replica.errors import ConfigError
from tests.unit.synthetic_checkout import claim


def made(**values) -> Claim:
    return Claim.model_validate(claim("c", **values))


def flat(entry: Claim) -> dict:
    return {cell.key: (cell.value, cell.ours) for cell in cells(entry)}


def test_a_number_is_one_cell():
    entry = made(value=0.047, ours="a.b")
    assert flat(entry) == {"": (0.047, "a.b")}
    assert row_name(entry, cells(entry)[0]) == "c"


def test_a_table_is_a_cell_per_number_and_nulls_are_none():
    entry = made(value={"x": {"u": 1, "v": [2, None, 4]}, "y": 5}, ours="{0}.m")
    assert flat(entry) == {"x.u": (1, "x.m"), "x.v.0": (2, "x.m"), "x.v.2": (4, "x.m"), "y": (5, "y.m")}
    assert row_name(entry, cells(entry)[1]) == "c:x.v.0"


def test_templates_take_all_keys_of_a_cell_and_quote_them():
    assert flat(made(value={"c++": {"a b": 1}}, ours="{0}.{1} / {0}.n")) == {"c++.a b": (1, "`c++`.`a b` / `c++`.n")}


def test_a_mirrored_mapping_may_leave_cells_out():
    entry = made(value={"x": [1, 2], "y": 3}, ours={"x": {"1": "m.x"}})
    assert flat(entry) == {"x.0": (1, None), "x.1": (2, "m.x"), "y": (3, None)}


def test_two_numbers_with_a_slash_are_two_cells():
    assert flat(made(value={"x": "90.2/90.0"}, ours={"x": "{1}"})) == {"x.0": (90.2, "0"), "x.1": (90.0, "1")}


def test_a_sentence_or_nothing_is_one_cell_without_number():
    assert flat(made(value="a >= b")) == {"": ("a >= b", None)}
    assert flat(made(value=None)) == {"": (None, None)}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"value": {"x": 1}, "ours": "{1}.m"}, r"asks for \{1\}"),
        ({"value": {"x": 1}, "ours": {"z": "m"}}, "a cell 'z'"),
        ({"value": 1, "ours": {"x": "m"}}, "is a mapping"),
        ({"value": {"x.y": 1, "x": {"y": 2}}}, "two cells have the key 'x.y'"),
    ],
)
def test_what_does_not_fit_is_an_error(values, words):
    with pytest.raises(ConfigError, match=words):
        cells(made(**values))


def test_settings_per_cell_go_by_longest_prefix():
    entry = {"x": "first", "x.y": "second"}
    assert by_cell(entry, ("x", "y")) == "second"
    assert by_cell(entry, ("x", "z")) == "first"
    assert by_cell(entry, ("w",)) is None
    assert by_cell("for all", ("w",)) == "for all"


def test_tolerance_is_the_cells_then_the_claims_then_the_kinds_then_the_last_digit():
    own, general, kind = (Tolerance(absolute=value, reason="r") for value in (1, 2, 3))
    entry = made(value={"x": {"u": 0.25}, "y": 3}, tolerances={"x": own}, tolerance=general)
    first, second = cells(entry)
    assert tolerance_of(entry, first, {"parameters": kind}) == own
    assert tolerance_of(entry, second, {"parameters": kind}) == general
    bare = made(value={"x": {"u": 0.25}})
    assert tolerance_of(bare, cells(bare)[0], {"parameters": kind}) == kind
    assert tolerance_of(bare, cells(bare)[0], {}).digits == 2


@pytest.mark.parametrize(("value", "digits"), [(0.047, 3), (9e-05, 5), (86.5, 1), (2.0, 0), (109_000_000, 0), ("x", 0)])
def test_printed_digits(value, digits):
    assert printed_digits(value) == digits
