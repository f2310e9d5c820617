"""The line of progress that training prints: written and read here, so that both agree."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

#: How much of a log's end is read.
_TAIL = 4096
_LINE = re.compile(r"^step (\d+)/(\d+)  loss (\S+)  \S+ steps/s  (\d+) s left$", re.MULTILINE)


@dataclass(frozen=True)
class Step:
    """How far a training is: optimizer steps done and in all, the last loss, seconds left as training sees them."""

    done: int
    total: int
    loss: float
    left: int


def line(done: int, total: int, loss: float, rate: float, left: float) -> str:
    """Return the line; `rate` is in steps per second, `left` in seconds."""
    return f"step {done}/{total}  loss {loss:.4f}  {rate:.1f} steps/s  {left:.0f} s left"


def last(log: Path) -> Step | None:
    """Return the last such line of a log; None where there is no log or no line yet."""
    try:
        with open(log, "rb") as handle:
            handle.seek(max(0, log.stat().st_size - _TAIL))
            text = handle.read().decode("utf-8", "replace")
    except OSError:
        return None
    lines = _LINE.findall(text)
    return Step(int(lines[-1][0]), int(lines[-1][1]), float(lines[-1][2]), int(lines[-1][3])) if lines else None
