"""Tests that need more than this machine has say what is missing and where it comes from."""

from __future__ import annotations

import os
import shutil

from tests.slurm.cluster import PROGRAMS, missing


def test_without_slurm_its_packages_are_named(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name, path: None if name == "slurmctld" else f"/usr/bin/{name}")
    assert missing() == (
        "no SLURM on this machine (slurmctld not found): apt install slurm-wlm slurmdbd munge mariadb-server"
    )


def test_without_root_no_slurm_is_started(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name, path: f"/usr/bin/{name}" if name in PROGRAMS else None)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert missing() == "only root can start a private SLURM"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert missing() == ""
