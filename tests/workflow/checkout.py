"""A small checkout in a temporary folder, and Snakemake run in it as a person would."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def make_checkout(
    folder: Path, papers: list[str], smoke: dict[str, str] | None = None, sections: list[str] | None = None
) -> Path:
    """Copy what the workflow needs into `folder`.

    `smoke` replaces values of the smoke scale's training overlay, `sections` the sections of papers' runs that it makes.
    """
    for name in ("config", "workflow", "scripts", "envs"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copy(ROOT / "Snakefile", folder / "Snakefile")
    config = folder / "config" / "config.yaml"
    config.write_text(
        re.sub(r"disabled: \[.*?\]", f"papers: [{', '.join(papers)}]", config.read_text(encoding="utf-8")),
        encoding="utf-8",
    )
    scale = folder / "config" / "scales" / "smoke.yaml"
    text = scale.read_text(encoding="utf-8")
    if sections is not None:
        text = text.replace("sections: [laptop, paper]", f"sections: [{', '.join(sections)}]")
    for key, value in (smoke or {}).items():
        text, count = re.subn(rf"\b{key}: [^,}}\n]+", f"{key}: {value}", text)
        assert count == 1, key
    scale.write_text(text, encoding="utf-8")
    return folder


def environment() -> dict[str, str]:
    """Environment of a job: one thread, no network to the hub."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def snakemake(folder: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run Snakemake in the checkout; standard output and error come back together."""
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "--nocolor", *arguments]
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        check=False,
    )
    if check:
        assert done.returncode == 0, done.stdout[-6000:]
    return done


def program(folder: Path, script: str, *arguments: str) -> list[str]:
    """Command line of one of the programs in scripts/."""
    return [sys.executable, str(folder / "scripts" / f"{script}.py"), *arguments]
