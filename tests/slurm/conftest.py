"""One private SLURM for all tests of this folder, and what happens on it, all at once."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from .cluster import Cluster, running
from .sites import prepared_site
from .stories import STORIES


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


@pytest.fixture(scope="session", autouse=True)
def stories(cluster, tmp_path_factory, request) -> Iterator[dict[str, Future]]:
    """The stories that the selected tests have among their arguments, started together and before the first test."""
    tests = [item for item in request.session.items if item.get_closest_marker("slurm")]
    asked = [name for name in STORIES if any(name in item.fixturenames for item in tests)]
    if not asked:
        yield {}
        return
    site = prepared_site(tmp_path_factory.mktemp("site"))
    with ThreadPoolExecutor(len(asked)) as pool:
        yield {name: pool.submit(STORIES[name], cluster, site, tmp_path_factory.mktemp("s") / name) for name in asked}


def _argument(name: str):
    """Make a story an argument of tests: what it came to."""

    @pytest.fixture(scope="session", name=name)
    def story(stories):
        return stories[name].result()

    return story


globals().update({f"story_{name}": _argument(name) for name in STORIES})
