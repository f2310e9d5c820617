"""Snakemake's lock of a folder, with the process that holds it: a lock whose process is gone is removed, not asked for.

Each Snakemake that locks leaves a record, number, start and machine of its process, in `.snakemake/holders/` while it holds the lock.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from replica.errors import ResultError
from replica.files import read_result, write_json


def held(lock: Callable[[Any], AbstractContextManager[None]]) -> Callable[[Any], AbstractContextManager[None]]:
    """Return Snakemake's `PersistenceBase.lock` with records of who holds it.

    Where the folder is locked and every recorded holder is a process of this machine that has ended, the lock is removed, with a
    line. Else the error names the holders.
    """

    @contextmanager
    def locked(persistence: Any) -> Iterator[None]:
        from snakemake.exceptions import LockException
        from snakemake.logging import logger

        folder = Path(persistence.path) / "holders"
        own = folder / f"{platform.node()}-{os.getpid()}.json"
        if persistence.locked:
            known = holders(folder.parent)
            living = [name for name, gone in known.items() if not gone]
            if known and not living:
                logger.warning(f"The lock of this folder is removed: {', '.join(known)} was killed. Its jobs go on.")
                persistence.cleanup_locks()
                (folder.parent / "locks").mkdir(exist_ok=True)  # it takes the folder too, which the lock needs
                for path in folder.glob("*.json"):
                    path.unlink(missing_ok=True)
            elif living:
                error = LockException()
                error.args = (f"This folder is locked by {', '.join(living)}. Wait for it to end, or stop it.",)
                raise error
        with lock(persistence):
            write_json(own, {"pid": os.getpid(), "host": platform.node(), "started": _started(os.getpid())})
            try:
                yield
            finally:
                own.unlink(missing_ok=True)

    return locked


def holders(folder: Path) -> dict[str, bool]:
    """Return the processes that hold, or were killed while they held, the lock of a `.snakemake` folder; and whether each is gone."""
    known = {}
    for path in sorted((folder / "holders").glob("*.json")):
        try:
            facts = read_result(path, ["pid", "host", "started"])
        except ResultError:
            continue
        here = facts["host"] == platform.node()
        known[f"Snakemake (process {facts['pid']} on {facts['host']})"] = (
            here and _started(facts["pid"]) != facts["started"]
        )
    return known


def _started(pid: int) -> float | None:
    """Return when a process began; None where there is none of this number."""
    import psutil

    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return None
