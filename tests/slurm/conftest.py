"""One private SLURM for all tests of this folder."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .cluster import Cluster, running


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A running private SLURM; it ends with the session, also where that is told to stop (SIGTERM)."""
    signal.signal(signal.SIGTERM, lambda number, frame: pytest.exit("SIGTERM"))
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # short: a socket's path may have 107 bytes
    try:
        with running(folder) as started:
            yield started
    finally:
        shutil.rmtree(folder, ignore_errors=True)
