"""What all tests share: where the checkout is, and loud skips for what this machine does not have."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def root() -> Path:
    """Root of this checkout."""
    return ROOT


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("mirror") and not os.environ.get("REPLICA_MIRROR"):
        pytest.skip("REPLICA_MIRROR names no mirror of public data")
    if item.get_closest_marker("slurm") and shutil.which("slurmctld") is None:
        pytest.skip("no SLURM on this machine (slurmctld not found)")
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no CUDA device on this machine")
