"""A checkout on the private cluster: the shipped profile with a site's handful of lines, and one run to train there."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from replica.config import load_project
from replica.plan import build_plan
from tests.workflow.checkout import make_checkout, snakemake

#: What is asked of training in these tests: long enough to be disturbed in the middle.
STEPS = 80
#: Times of the profile, and shorter ones for a cluster that nobody else is on. Snakemake ends no sooner than its timespan.
TIMES = {
    "replica-slurm-init-seconds-before-status-checks": ("40", "2"),
    "replica-slurm-max-seconds-between-status-checks": ("180", "3"),
    "max-jobs-per-timespan": ("50/10s", "50/1s"),
}


def make_site(folder: Path, papers: list[str]) -> Path:
    """Make a small checkout with the `slurm` profile at its top, changed as a new site changes it."""
    make_checkout(folder, papers, sections=["laptop"])
    (folder / "slurm").symlink_to("workflow/profiles/slurm")
    replace(folder / "slurm" / "config.yaml", {f"{key}: {old}": f"{key}: {new}" for key, (old, new) in TIMES.items()})
    return folder


def replace(path: Path, values: dict[str, str]) -> None:
    """Replace texts of a file; each has to be there once."""
    text = path.read_text(encoding="utf-8")
    for old, new in values.items():
        assert text.count(old) == 1, f"{path}: {text.count(old)} times {old!r}"
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")


def scale(folder: Path, values: dict[str, str]) -> None:
    """Replace values of the checkout's smoke scale; each has to be there already."""
    path = folder / "config" / "scales" / "smoke.yaml"
    replace(
        path,
        {
            re.search(rf"\b{key}: [^,}}\n]+", path.read_text(encoding="utf-8")).group(): f"{key}: {value}"
            for key, value in values.items()
        },
    )


@dataclass
class OneRun:
    """A checkout in which one seed of one fine-tuning run, without parents, is made."""

    folder: Path
    run: str

    @property
    def out(self) -> Path:
        """Where the result is stored."""
        return self.folder / "results" / "smoke" / "runs" / self.run / "seed0"

    @property
    def target(self) -> str:
        """What Snakemake is asked for."""
        return str((self.out / "manifest.json").relative_to(self.folder))

    @property
    def state(self) -> Path:
        """Where checkpoints and marks of failure lie."""
        return self.folder / "state" / "smoke" / self.run / "seed0"

    @property
    def log(self) -> str:
        """What the newest attempt of the training program printed."""
        path = self.folder / "logs" / "adapt" / "smoke" / f"{self.run}-seed0.log"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    @property
    def resumed_at(self) -> int:
        """Step at which the newest attempt went on; 0 where it began anew."""
        found = re.search(r"resuming at step (\d+)", self.log)
        return int(found.group(1)) if found else 0

    def result(self) -> dict[str, str]:
        """Hashes of what is stored: the weights, from which all metrics follow, and the history of the losses."""
        files = json.loads((self.out / "manifest.json").read_text(encoding="utf-8"))["files"]
        return {name: files[name]["sha256"] for name in ("model.safetensors", "history.jsonl")}


def one_run(folder: Path) -> OneRun:
    """Find the run of a checkout's smoke plan that needs no other run first."""
    plan = build_plan(load_project(folder, quick=False), "smoke")
    run = next(run for run in plan.runs.values() if run.stage == "adapt" and not run.parents and run.seeds)
    return OneRun(folder, run.id)


def prepared_site(folder: Path) -> Path:
    """Make a checkout whose run has its data already."""
    make_site(folder, ["compacter"])
    run = build_plan(load_project(folder, quick=False), "smoke").run(one_run(folder).run)
    snakemake(folder, "--config", "scale=smoke", "--", f"assets/prepared/{run.data}/manifest.json")
    return folder


def copied(site: Path, folder: Path, **values: str) -> OneRun:
    """Copy a prepared checkout and change its smoke scale."""
    shutil.copytree(site, folder, symlinks=True)
    scale(folder, {"steps": str(STEPS), "checkpoint_every": str(2 * STEPS), **values})
    return one_run(folder)
