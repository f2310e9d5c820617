"""Snakemake's lock: one whose process is gone is removed, a living one is named, one of another machine stays."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from contextlib import contextmanager

import pytest
from snakemake.exceptions import LockException
from snakemake.persistence.file import FilePersistence

from replica.files import write_json
from replica.jobs.snakemake_lock import held, holders
from replica.jobs.snakemake_patches import patch_snakemake


class Persistence:
    """Snakemake's records of a folder, as far as the lock needs them."""

    def __init__(self, folder):
        self.path, self.marks = folder / ".snakemake", folder / ".snakemake" / "locks"
        self.marks.mkdir(parents=True, exist_ok=True)

    @property
    def locked(self):
        """Whether a lock is there."""
        return any(self.marks.glob("*"))

    def cleanup_locks(self):
        """Remove the lock."""
        shutil.rmtree(self.marks)

    @contextmanager
    def lock(self):
        """Hold the lock."""
        if self.locked:
            raise LockException
        (self.marks / "0.input.lock").touch()
        yield
        self.cleanup_locks()


lock = held(Persistence.lock)


def left_by(persistence, host=None):
    """Leave a lock as a process that was killed does; returns its number."""
    done = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, encoding="utf-8", check=True
    )
    (persistence.marks / "0.input.lock").touch()
    facts = {"pid": int(done.stdout), "host": host or platform.node(), "started": 1.0}
    write_json(persistence.path / "holders" / f"{facts['host']}-{facts['pid']}.json", facts)
    return facts["pid"]


def test_a_lock_is_recorded_while_it_is_held(tmp_path):
    persistence = Persistence(tmp_path)
    with lock(persistence):
        assert holders(persistence.path) == {f"Snakemake (process {os.getpid()} on {platform.node()})": False}
        said = rf"locked by Snakemake \(process {os.getpid()} on .*Wait for it"
        with pytest.raises(LockException, match=said), lock(Persistence(tmp_path)):
            pass
        assert persistence.locked
    assert holders(persistence.path) == {} and not persistence.locked


def test_the_lock_of_a_process_that_is_gone_is_removed(tmp_path):
    persistence = Persistence(tmp_path)
    left_by(persistence)
    assert list(holders(persistence.path).values()) == [True]
    with lock(persistence):
        assert list(holders(persistence.path).values()) == [False]


def test_a_number_that_another_process_has_now_is_no_holder(tmp_path):
    persistence = Persistence(tmp_path)
    (persistence.marks / "0.input.lock").touch()
    facts = {"pid": os.getpid(), "host": platform.node(), "started": 1.0}
    write_json(persistence.path / "holders" / "x.json", facts)
    with lock(persistence):
        pass


def test_a_lock_without_a_record_or_of_another_machine_stays(tmp_path):
    persistence = Persistence(tmp_path)
    (persistence.marks / "0.input.lock").touch()
    with pytest.raises(LockException), lock(persistence):
        pass
    pid = left_by(persistence, "elsewhere")
    with pytest.raises(LockException, match=rf"process {pid} on elsewhere"), lock(persistence):
        pass
    assert persistence.locked


def test_snakemake_has_what_the_lock_reads():
    patch_snakemake()
    assert FilePersistence.lock.__wrapped__.__name__ == "locked"
    assert all(hasattr(FilePersistence, name) for name in ("locked", "cleanup_locks"))
