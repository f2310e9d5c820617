"""Tables as CSV in which a spreadsheet finds no formula."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable

_NUMBER = r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?"
#: A number, or several with semicolons between.
_NUMBERS = re.compile(rf"{_NUMBER}(?:; {_NUMBER})*", re.IGNORECASE)
#: Text that a spreadsheet would compute; with apostrophes before it, text that `cell` wrote or that looks so.
_FORMULA = re.compile(r"'*[=+\-@\t\r]")


def to_csv(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return header and rows as CSV with line feeds, each cell as `cell` writes it."""
    return "".join(_line(row) for row in (header, *rows))


def _line(row: Iterable[str]) -> str:
    out = io.StringIO(newline="")
    csv.writer(out).writerow([cell(text) for text in row])  # its own end of lines lets it quote carriage returns too
    return out.getvalue().removesuffix("\r\n") + "\n"


def cell(text: str) -> str:
    """Return a cell as it is, or with an apostrophe before a text that a spreadsheet would take for a formula.

    Spreadsheets drop the apostrophe. A program gets the text back by dropping the first of the apostrophes that stand before `=`, `+`, `-`,
    `@`, a tab or a carriage return at the start of a cell.
    """
    return f"'{text}" if _FORMULA.match(text) and not _NUMBERS.fullmatch(text) else text
