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


#: Folders of tests by how long their longest group takes: what is long begins first, so that no worker is left alone with it at the end.
ORDER = ("slurm", "workflow", "browser", "methods", "unit")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--slow`."""
    parser.addoption("--slow", action="store_true", help="also the tests marked slow, which take minutes each")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the slow tests unless asked for, and put the tests of the long-lasting folders first; within a folder the order stays."""
    slow = [item for item in items if item.get_closest_marker("slow")]
    if slow and not config.getoption("--slow"):
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]
    items.sort(key=lambda item: ORDER.index(item.path.relative_to(ROOT / "tests").parts[0]))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log):
    """Keep the tests of a file in one worker, and all of tests/slurm: they share what their fixtures made.

    The marks of `--dist loadgroup` do not reach xdist 3.8 from pytest 9.2, whose node ids cannot be extended.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.partition("::")[0]
            return "tests/slurm" if path.startswith("tests/slurm/") else path

    return ByFile(config, log)


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
