"""The errors a person can cause and mend: each says what was wrong, where, and what would be right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ReplicaError(Exception):
    """Something a person can mend; command-line programs print its message without a traceback and exit with 2."""


class ConfigError(ReplicaError):
    """A configuration file says something that cannot be; the message names file, key and what would be right."""


class AssetError(ReplicaError):
    """A data set or model cannot be had, or is not what the registry pins."""


class TrainingError(ReplicaError):
    """A training run cannot go on (a loss that is not finite, a checkpoint that cannot be read)."""


class ResultError(ReplicaError):
    """A stored result is missing, cannot be read, or holds what no result may hold (a number that is not finite)."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the known name closest to `name`, or the list of known names when none is close."""
    known = sorted({str(k) for k in known})
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean '{close[0]}'?"
    if not known:
        return ""
    shown = ", ".join(known[:12]) + (", …" if len(known) > 12 else "")
    return f"; known: {shown}"
