"""What the Makefile's verbs do to a checkout."""

from __future__ import annotations

import os
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
        path.write_text("x", encoding="utf-8")
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs" / "torch.txt").write_text("torch==0", encoding="utf-8")
    shutil.copy(root / "Makefile", tmp_path)
    done = subprocess.run(
        ["make", "clean"], cwd=tmp_path, input=f"{answer}\n", encoding="utf-8", capture_output=True, check=True
    )
    assert [(tmp_path / name).exists() for name in GONE] == [not gone] * len(GONE)
    assert all((tmp_path / name).exists() for name in KEPT)
    assert ("nothing deleted" in done.stdout) == (not gone)
    if gone:
        assert not (tmp_path / "benchmarks" / "train").exists()


@pytest.mark.skipif(shutil.which("make") is None, reason="no make on this machine")
def test_a_persons_settings_of_pip_do_not_reach_the_environment(root, tmp_path):
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs" / "torch.txt").write_text("torch==0", encoding="utf-8")
    (tmp_path / "show.mk").write_text("show:\n\t@env\n", encoding="utf-8")
    own = {
        "PIP_USER": "1",
        "PIP_REQUIRE_VIRTUALENV": "1",
        "PIP_CONSTRAINT": "x.txt",
        "PIP_TARGET": "x",
        "PIP_PREFIX": "x",
    }
    own |= {"PIP_ROOT": "x", "PIP_DRY_RUN": "1", "PIP_NO_BINARY": ":all:"}
    sources = {"PIP_INDEX_URL": "https://index.example", "PIP_CERT": "cert.pem"}
    command = ["make", "-f", str(root / "Makefile"), "-f", "show.mk", "show"]
    plain = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    done = subprocess.run(
        command, cwd=tmp_path, env={**plain, **own, **sources}, encoding="utf-8", capture_output=True, check=True
    )
    seen = dict(line.split("=", 1) for line in done.stdout.splitlines() if line.startswith("PIP_"))
    assert seen == {**sources, "PIP_USER": "0", "PIP_REQUIRE_VIRTUALENV": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
