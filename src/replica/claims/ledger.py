"""The ledger: the rows of all papers, sorted, as CSV and JSON that come out the same byte for byte."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from replica.claims import csv_text
from replica.claims.compare import COLUMNS, Row
from replica.claims.numbers import text
from replica.errors import ConfigError, ResultError
from replica.files import parse_result, read_result
from replica.seals import SEAL, check, read_sealed, sealed

#: How a ledger comes to be, for errors about one that is missing or none.
AGAIN = "make it with `make reproduce` (or `snakemake`)"


def read_claims(path: Path | str, paper: str | None = None) -> dict[str, Any]:
    """Read a paper's claims.json; ResultError where there is none, it is not one, does not match its seal, or is another `paper`'s.

    Raises ConfigError where its columns are others.
    """
    value = read_sealed(
        path, {"paper": str, "rows": list, "trends": dict}, "`scripts/compare.py` writes a paper's claims"
    )
    if paper not in (None, value["paper"]):
        raise ResultError(f"{path}: is of paper {value['paper']}, not of {paper}; compare the paper again")
    for row in value["rows"]:
        if not isinstance(row, dict) or set(row) != set(COLUMNS):
            named = row.get("claim") if isinstance(row, dict) else row
            raise ConfigError(f"{path}: row {named} has other columns than the ledger; compare the paper again")
    return value


def read_ledger(path: Path | str) -> list[Row]:
    """Read the ledger's JSON; ResultError where there is none, it is not one, or it does not match its seal."""
    return _rows(read_result(path, again=AGAIN), path)


def parse_ledger(content: str, where: Path | str) -> list[Row]:
    """Return the rows of a committed ledger; `where` names it in errors. One from before seals is a list of rows."""
    value = parse_result(content, where, again=AGAIN)
    return _rows(sealed({"rows": value}) if isinstance(value, list) else value, where)


def _rows(ledger: Any, where: Path | str) -> list[Row]:
    """Return the rows of a sealed ledger; ResultError for anything else."""
    rows = ledger.get("rows") if isinstance(ledger, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) and {"paper", "claim"} <= set(row) for row in rows):
        raise ResultError(f"{where}: not a ledger, whose `rows` have paper and claim; {AGAIN}")
    check(ledger, where, AGAIN)
    return rows


def merge(claims: Iterable[dict[str, Any]]) -> list[Row]:
    """Return the rows of several papers in order of paper, evidence and claim; a row that appears twice is an error."""
    rows = [{column: row[column] for column in COLUMNS} for paper in claims for row in paper["rows"]]
    order = {"structural": 0, "trend": 1, "full": 2}
    rows.sort(key=lambda row: (row["paper"], order[row["evidence"]], row["claim"]))
    for before, after in itertools.pairwise(rows):
        if (before["paper"], before["claim"]) == (after["paper"], after["claim"]):
            raise ConfigError(f"the ledger would hold {after['paper']} {after['claim']} twice")
    return rows


def to_csv(rows: Iterable[Row]) -> str:
    """Return rows as CSV with the ledger's columns."""
    return csv_text.to_csv(COLUMNS, ([text(row[column]) for column in COLUMNS] for row in rows))


def to_json(rows: list[Row]) -> str:
    """Return rows as sealed JSON, one row a line so that a changed number is a changed line."""
    lines = ",\n".join(json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows)
    seal = json.dumps(sealed({"rows": rows})[SEAL])
    return f'{{"rows": [\n{lines}\n],\n"{SEAL}": {seal}}}\n'


def summary(rows: Iterable[Row]) -> dict[str, dict[str, dict[str, int]]]:
    """Return how many rows have each verdict, by paper and evidence."""
    verdicts: dict[str, dict[str, dict[str, int]]] = {}
    for row in rows:
        counts = verdicts.setdefault(row["paper"], {}).setdefault(row["evidence"], {})
        counts[row["verdict"]] = counts.get(row["verdict"], 0) + 1
    return verdicts


def numbers(rows: Iterable[Row]) -> dict[str, dict[str, float]]:
    """Return every measured number by paper and claim, for `dvc metrics diff` between two commits."""
    values: dict[str, dict[str, float]] = {}
    for row in rows:
        value = row["our_value"]
        if isinstance(value, int | float) and not isinstance(value, bool):
            values.setdefault(row["paper"], {})[row["claim"]] = value
    return values
