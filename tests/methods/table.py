"""One row per method: every method joins the tests of test_table.py by its row here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Row:
    """A method with a configuration that trains on a tiny model.

    `head` is the task kind, `architecture` the tiny backbone; `teacher` gives the run a teacher of the same kind.
    """

    method: str
    config: dict[str, Any] = field(default_factory=dict)
    head: str = "classification"
    architecture: str = "bert"
    teacher: bool = False
    steps: int = 12
    learning_rate: float = 5e-3


ROWS: list[Row] = []
