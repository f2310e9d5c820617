"""CSV in which a spreadsheet finds no formula, and from which every text comes back."""

from __future__ import annotations

import csv
import io
import re

import pytest

from replica.claims.csv_text import to_csv

FORMULAS = [
    "=1+1",
    "=cmd|'/c calc'!A1",
    "+A1",
    "-A1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "-2+3",
    "- none",
    "-1; =1",
    "'=1",
    "''@x",
]
PLAIN = ["a=b", "1", "-1", "+3.5", "-1e-05", "1; -2.5; 3", "'", "'quoted'", "−1", "a\n=b", 'say "x", y']


def _back(cell):
    return cell[1:] if re.match(r"'+[=+\-@\t\r]", cell) else cell


@pytest.mark.parametrize("value", [*FORMULAS, *PLAIN])
def test_a_text_is_no_formula_and_a_number_stays_a_number(value):
    [[header], [cell]] = csv.reader(io.StringIO(to_csv([value], [[value]]), newline=""))
    assert cell == header == (value if value in PLAIN else f"'{value}") and _back(cell) == value


def test_lines_end_in_a_line_feed():
    assert to_csv(["a", "b"], [["1", "=2"], ["3", ""]]) == "a,b\n1,'=2\n3,\n"
