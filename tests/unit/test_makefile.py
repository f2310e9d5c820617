"""What the Makefile's verbs do to a checkout."""

from __future__ import annotations

import shutil
import subprocess

import pytest

GONE = [
    "assets/models/x",
    "state/laptop/r",
    "logs/a.log",
    "benchmarks/train/laptop/r.tsv",
    "results/laptop/r",
    "results/claims.csv",
]
KEPT = ["benchmarks/dag.py", "benchmarks/training_throughput.json", "results/pinned/claims.csv", "config/config.yaml"]


@pytest.mark.skipif(shutil.which("make") is None, reason="no make on this machine")
@pytest.mark.parametrize("answer, gone", [("y", True), ("n", False), ("", False)])
def test_clean_removes_what_a_run_made_and_keeps_what_is_committed(root, tmp_path, answer, gone):
    for name in (*GONE, *KEPT):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs" / "torch.txt").write_text("torch==0")
    shutil.copy(root / "Makefile", tmp_path)
    done = subprocess.run(
        ["make", "clean"], cwd=tmp_path, input=f"{answer}\n", text=True, capture_output=True, check=True
    )
    assert [(tmp_path / name).exists() for name in GONE] == [not gone] * len(GONE)
    assert all((tmp_path / name).exists() for name in KEPT)
    assert ("nothing deleted" in done.stdout) == (not gone)
    if gone:
        assert not (tmp_path / "benchmarks" / "train").exists()
