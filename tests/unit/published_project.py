"""A small project in a git and DVC repository whose runs look finished, made in a moment: for tests of publishing and adopting."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save_file

from replica.assets import manifest
from replica.claims.compare import report
from replica.claims.evidence import measurement_settings
from replica.config import Project, load_project
from replica.files import read_json, sha256_file, write_json, write_text
from replica.plan import Plan, build_plan
from replica.report import tables
from replica.seals import write_sealed
from replica.sharing.artifacts import Artifact, artifacts_of

from .small_project import paper, write_project

ROOT = Path(__file__).resolve().parents[2]
#: What of this project's own files a checkout needs for sharing.
SHARED = (".dvc/config", ".dvc/.gitignore", ".dvcignore", "published/.gitignore")
#: Git as somebody, whatever the machine's settings.
SOMEBODY = {
    "GIT_AUTHOR_NAME": "Somebody",
    "GIT_AUTHOR_EMAIL": "somebody@example.org",
    "GIT_COMMITTER_NAME": "Somebody",
    "GIT_COMMITTER_EMAIL": "somebody@example.org",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
}


def git(folder: Path, *arguments: str) -> str:
    """Run git as somebody and return what it printed."""
    environment = {**os.environ, **SOMEBODY}
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env=environment, capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def under_version_control(folder: Path) -> Path:
    """Make a folder a git and DVC repository with everything in it committed."""
    for name in SHARED:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    write_text(
        folder / ".gitignore", "/assets/\n/results/*\n/state/\n/logs/\n/benchmarks/\n.snakemake/\n__pycache__/\n"
    )
    git(folder, "init", "--quiet", "--initial-branch", "main")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "A project")
    return folder


def clone(source: Path, target: Path) -> Path:
    """Clone a repository; the clone has no results, no cache and no settings of its machine's."""
    git(source.parent, "clone", "--quiet", str(source), str(target))
    return target


def default_remote(folder: Path, url: Path | str, name: str = "lab") -> None:
    """Set DVC's default remote and commit that."""
    config = folder / ".dvc" / "config"
    write_text(config, f"[core]\n    analytics = false\n    remote = {name}\n['remote \"{name}\"']\n    url = {url}\n")
    git(folder, "commit", "--quiet", "--message", "A remote", "--", ".dvc/config")


def small(folder: Path, *names: str, **settings) -> Path:
    """Write a project with the named papers, each with runs of its own and a teacher that all share."""
    papers = []
    for name in names or ("one", "two"):
        item = paper(id=name)
        runs = item["runs"]["laptop"]
        runs["plain"]["train"] = {"steps": 10 + len(papers)}
        runs["student"].pop("tune")
        runs["student"]["train"] = {"steps": 20 + len(papers)}
        papers.append(item)
    write_project(folder, *papers, settings={"scale": "laptop", **settings})
    return under_version_control(folder)


def score_again(path: Path, **changes) -> None:
    """Change keys of a sealed file as the job that wrote it would, sealed anew."""
    content = {**read_json(path), **changes}
    write_sealed(path, content, **{key: value for key, value in content["seal"].items() if key != "sha256"})


def planned(folder: Path, scale: str | None = None) -> tuple[Project, Plan]:
    """Return a folder's project and plan."""
    project = load_project(folder, quick=False)
    return project, build_plan(project, scale)


def finish(folder: Path, scale: str | None = None) -> dict[str, Artifact]:
    """Make every run, data set and result of a project look finished; parents come before what was made from them."""
    project, plan = planned(folder, scale)
    found = artifacts_of(project, plan, project.papers)
    order = {"dataset": 0, "model": 0, "prepared": 1, "run": 2, "structural": 3, "paper": 4}
    depth = {run_id: _depth(plan, run_id) for run_id in plan.runs}
    for artifact in sorted(found.values(), key=lambda a: (order[a.kind], depth.get(Path(a.folder).parent.name, 0))):
        _MAKERS[artifact.kind](folder, plan, artifact)
    return found


def _depth(plan: Plan, run_id: str) -> int:
    return 1 + max((_depth(plan, parent) for parent in plan.runs[run_id].parents.values()), default=0)


def _table(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 100, 50)
    pq.write_table(pa.table({"example_id": range(50), "input_ids": values}), path)


def _dataset(folder: Path, plan: Plan, artifact: Artifact) -> None:
    place = folder / artifact.folder
    _table(place / "train.parquet", 1)
    manifest.write(place, asset="dataset", name=place.name, licence="MIT")


def _model(folder: Path, plan: Plan, artifact: Artifact) -> None:
    place = folder / artifact.folder
    write_json(place / "config.json", {"hidden_size": 4})
    manifest.write(place, asset="model", name=place.name, licence="MIT")


def _prepared(folder: Path, plan: Plan, artifact: Artifact) -> None:
    place = folder / artifact.folder
    _table(place / "train.parquet", 2)
    manifest.write(place, name=place.name)


def _run(folder: Path, plan: Plan, artifact: Artifact) -> None:
    place = folder / artifact.folder
    run, seed = plan.runs[place.parent.name], int(place.name.removeprefix("seed"))
    place.mkdir(parents=True)
    weights = np.random.default_rng(int(run.id[-8:], 16) + seed).normal(size=(8, 8)).astype("float32")
    save_file({"weight": weights}, place / run.stored)
    described = {
        "architecture": "bert",
        "config": {},
        "head": "classification",
        "labels": 2,
        "structure": [],
        "tied": {},
    }
    write_json(place / "model.json", described)
    parents = {}
    for role, parent in run.parents.items():
        parent_seed = plan.parent_seed(parent, seed)
        source = folder / f"results/{plan.scale}/runs/{parent}/seed{parent_seed}/manifest.json"
        parents[role] = {"run": parent, "seed": parent_seed, "manifest": sha256_file(source)}
    manifest.write(
        place, run=run.id, seed=seed, scale=plan.scale, spec=run.spec.content(), parents=parents, candidates=run.candidates,
        versions={"replica": "0.1.0"}, finished="2026-01-01T00:00:00Z", counts={"total_parameters": 64, "trainable_parameters": 64},
    )  # fmt: skip
    if run.evaluate:
        facts = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 50, "split": "report"}
        _table(place / "predictions.parquet", 3)
        inputs = {name: sha256_file(place / name) for name in ("manifest.json", "predictions.parquet")}
        content = {"run": run.id, "seed": seed, "tasks": {"words": {"accuracy": facts}}}
        write_sealed(place / "metrics.json", content, inputs=inputs)


def _structural(folder: Path, plan: Plan, artifact: Artifact) -> None:
    [paper], project = artifact.papers, load_project(folder, papers=list(artifact.papers))
    settings = measurement_settings(project, project.paper(paper))
    content = {"paper": paper, "measurements": {}}
    write_sealed(folder / artifact.folder / artifact.only[0], content, settings=settings)


def _paper(folder: Path, plan: Plan, artifact: Artifact) -> None:
    place = folder / artifact.folder
    project, plan = planned(folder, plan.scale)
    name = place.name
    named, wanted = plan.named[name], set(plan.wanted[name])
    claims = report(project, name, plan.scale, folder / "results", named, wanted)
    write_sealed(place / "claims.json", claims)
    tables.write(project.paper(name), claims, place / "tables")
    write_text(place / "figures" / "verdicts.svg", f"{name}\n")
    for made in ("tables", "figures"):
        write_text(place / made / ".snakemake_timestamp", "")


_MAKERS = {
    "dataset": _dataset,
    "model": _model,
    "prepared": _prepared,
    "run": _run,
    "structural": _structural,
    "paper": _paper,
}
