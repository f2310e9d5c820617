"""Paths with quotes, braces and spaces: whatever a shell reads is quoted."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from snakemake_interface_executor_plugins.settings import SharedFSUsage

import snakemake_executor_plugin_replica_slurm as slurm

from .checkout import ROOT, environment, make_checkout

pytestmark = pytest.mark.workflow

ODD = 'o\'bri{en} "x"'


def test_every_path_in_a_rule_is_quoted():
    for path in sorted((ROOT / "workflow" / "rules").glob("*.smk")):
        for text in re.findall(r'    shell:\n((?:        ".*"\n)+)', path.read_text(encoding="utf-8")):
            bare = re.findall(r"\{(?:input|output|log|params)\b[^:}]*\}", text)
            assert not bare, f"{path.name}: {bare[0]} needs `:q`"


def test_an_environment_and_a_checkout_below_odd_folders(tmp_path):
    folder = make_checkout(
        tmp_path / ODD.translate({ord(brace): None for brace in "{}"}), ["compacter"]
    )  # Snakemake's own limit
    (tmp_path / ODD).mkdir()
    (tmp_path / ODD / ".venv").symlink_to(Path(sys.executable).parents[1])
    command = [
        str(tmp_path / ODD / ".venv" / "bin" / "python"),
        "-m",
        "snakemake",
        "--cores",
        "1",
        "results/papers.bib",
    ]
    variables = {**environment(), "PATH": os.environ["PATH"]}
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (folder / "results" / "papers.bib").read_text(encoding="utf-8")


def test_a_slurm_jobs_python_is_one_word(monkeypatch):
    executor = object.__new__(slurm.Executor)
    usage = [SharedFSUsage.SOFTWARE_DEPLOYMENT]
    executor.workflow = SimpleNamespace(storage_settings=SimpleNamespace(shared_fs_usage=usage))
    monkeypatch.setattr(sys, "executable", f"/{ODD}/bin/python")
    assert shlex.split(executor.get_python_executable()) == [f"/{ODD}/bin/python"]
