"""The record of a process that works on a run, so that `replica status` can tell running, interrupted and failed apart."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from replica.files import write_json
from replica.paths import PROCESS


@contextmanager
def recorded(folder: Path, attempt: int = 1) -> Iterator[None]:
    """Keep `process.json` (process number, host, attempt) in a run's state folder while the block runs.

    It stays when the process is killed or the block ends well (who stored the result removes the folder), and goes when the block
    raises: then the run has failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder, attempt)
    try:
        yield
    except Exception:
        (folder / PROCESS).unlink(missing_ok=True)
        with suppress(OSError):
            folder.rmdir()  # where no checkpoint is in it
        raise


def stopped(folder: Path, attempt: int, step: int) -> None:
    """Record that the process stopped by itself at a step, and was not killed."""
    _write(folder, attempt, stopped=step)


def _write(folder: Path, attempt: int, **more: int) -> None:
    write_json(folder / PROCESS, {"pid": os.getpid(), "host": platform.node(), "attempt": attempt, **more})
