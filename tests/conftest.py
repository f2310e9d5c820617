"""What all tests share: where the checkout is, and loud skips for what this machine does not have."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def root() -> Path:
    """Root of this checkout."""
    return ROOT


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of a file in one worker (`--dist loadgroup`), and all that need a SLURM: they share what their fixtures made."""
    for item in items:
        group = "slurm" if item.get_closest_marker("slurm") else item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group(group))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("mirror") and not os.environ.get("REPLICA_MIRROR"):
        pytest.skip("REPLICA_MIRROR names no mirror of public data")
    if item.get_closest_marker("slurm") and (missing := _missing_of_slurm()):
        pytest.skip(missing)
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no CUDA device on this machine")


def _missing_of_slurm() -> str:
    from tests.slurm.cluster import missing

    return missing()


def pytest_terminal_summary(terminalreporter) -> None:
    """Say in capitals that the cluster tests did not run: a line among hundreds of skips is overlooked."""
    skipped = terminalreporter.stats.get("skipped", [])
    count = sum("tests/slurm/" in report.nodeid for report in skipped)
    if count:
        terminalreporter.write_line(f"WARNING: {count} TESTS ON A REAL SLURM WERE SKIPPED (tests/slurm)", yellow=True)
