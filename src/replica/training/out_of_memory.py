"""Training that did not fit into memory comes back with smaller micro-batches: in how many parts, and how that is remembered.

`memory.json` in the folder of the resume checkpoints holds `parts`. A process that sees the error doubles it and ends with status 86.
One that was killed without notice (the kernel or the cluster ends who takes too much memory) leaves its record behind; when the job
comes back as a later attempt, that counts as too little memory too. A job that its cluster requeues after a preemption keeps its
attempt. Imports torch only to know its error.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from replica.errors import OutOfMemoryError
from replica.files import is_alive, read_result, write_json
from replica.paths import MEMORY, PROCESS

#: Messages of libraries when memory is short; torch has also an error type of its own.
MESSAGES = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


def parts(folder: Path, attempt: int, most: int) -> int:
    """Return in how many parts a process computes its share of a micro-batch, at most `most` (one sentence each).

    Twice as many as before where the process of an earlier attempt was killed without notice.
    """
    facts = _known(folder)
    known = max(1, facts["parts"])
    lost = killed(folder, attempt)
    # an attempt that reported the shortage itself is counted already
    if lost is not None and lost > facts.get("attempt", 0):
        known = min(2 * known, max(most, known))
        print(
            f"attempt {attempt}: the process before was killed without notice, perhaps for its memory: "
            f"micro-batches in {known} parts from here",
            file=sys.stderr,
            flush=True,
        )
        write_json(folder / MEMORY, {"parts": known, "attempt": lost})
    return min(known, most)


def killed(folder: Path, attempt: int) -> int | None:
    """Return the earlier attempt whose process left its record below `folder` and no sign that it stopped by itself, or None."""
    record = folder / PROCESS
    if not record.exists():
        return None
    facts = read_result(record, {"pid": int, "host": str}, f"remove {record}", {"attempt": int})
    before = facts.get("attempt", 1)
    if "stopped" in facts or attempt <= before or (facts["host"] == platform.node() and is_alive(facts["pid"])):
        return None
    return before


def shorten(folder: Path, attempt: int) -> None:
    """Remember to take parts half as large, once for an attempt, however many of its processes report it."""
    facts = _known(folder)
    if facts.get("attempt") != attempt:
        write_json(folder / MEMORY, {"parts": 2 * facts["parts"], "attempt": attempt})


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory, of the GPU or of the machine, was too small."""
    if isinstance(error, MemoryError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    import torch

    return isinstance(error, torch.OutOfMemoryError) or any(mark in str(error) for mark in MESSAGES)


@contextmanager
def watched(folder: Path, now: int, most: int, attempt: int) -> Iterator[None]:
    """Turn an error for lack of memory in the block into OutOfMemoryError, and remember to take smaller parts.

    `now` is the number of parts, `most` its largest value, which is also the sentences of a process's whole micro-batch.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        if now >= most:
            raise OutOfMemoryError(
                f"out of memory with one sentence at a time: the model itself needs a larger GPU or more mem_mb ({reason})"
            ) from error
        write_json(folder / MEMORY, {"parts": min(2 * now, most), "attempt": attempt})
        raise OutOfMemoryError(
            f"out of memory with {-(-most // now)} sentences at a time; the next start takes half as many, in the same batches ({reason})"
        ) from error


def _known(folder: Path) -> dict[str, Any]:
    if not (folder / MEMORY).exists():
        return {"parts": 1}
    again = f"remove {folder / MEMORY} to start with whole micro-batches"
    return read_result(folder / MEMORY, {"parts": int}, again, {"attempt": int})
