"""Files are there whole or not at all, and what a killed process left goes when its run starts again."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from replica.files import atomic_folder, atomic_path, remove_leftovers

KILLED = """
import os, signal, sys
from replica.files import atomic_folder, atomic_path
with {how}(sys.argv[1]) as temporary:
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("how", ["atomic_folder", "atomic_path"])
def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path, how):
    done = subprocess.run([sys.executable, "-c", KILLED.format(how=how), str(tmp_path / "seed1")], check=False)
    assert done.returncode == -signal.SIGKILL
    [left] = tmp_path.iterdir()
    others = [tmp_path / name for name in (".seed10.abcdefgh", ".seed1.snakemake_timestamp", "seed1", "seed2")]
    for other in others:
        other.mkdir()
    assert remove_leftovers(tmp_path / "seed1") == [left]
    assert sorted(tmp_path.iterdir()) == sorted(others)


def test_nothing_is_left_where_writing_fails(tmp_path):
    for make in (atomic_folder, atomic_path):
        with pytest.raises(ZeroDivisionError), make(tmp_path / "x"):
            raise ZeroDivisionError
    assert remove_leftovers(tmp_path / "x") == [] and not list(tmp_path.iterdir())
