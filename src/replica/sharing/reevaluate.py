"""Adopted checkpoints are scored again and compared with the metrics that were published with them."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from replica.assets import manifest
from replica.claims.run_files import read_file
from replica.config.project import Project
from replica.errors import AssetError
from replica.paths import Layout
from replica.plan import Plan
from replica.plan.outputs import evaluated_runs
from replica.sharing import index


@dataclass(frozen=True)
class Comparison:
    """One metric of one seed of a run: as published, and as it came out here."""

    run: str
    seed: int
    task: str
    metric: str
    published: float | None
    low: float | None
    high: float | None
    actual: float | None

    @property
    def verdict(self) -> str:
        """`equal` to the last digit; `within` the published interval (other processors round differently); else `differs`."""
        if self.actual == self.published:
            return "equal"
        if None not in (self.actual, self.low, self.high) and self.low <= self.actual <= self.high:
            return "within"
        return "differs"


def reevaluate(project: Project, plan: Plan, papers: list[str]) -> list[Comparison]:
    """Score the adopted checkpoints of papers again, in a passing folder, and compare with the published metrics.

    The published files stay as they are. AssetError where a run or its tokenized data is not here.
    """
    from replica.plan.run_job import job_of
    from replica.training.evaluate import evaluate_run

    root = Path(project.root).resolve()
    layout, entries = Layout(root), index.read(root)
    comparisons: list[Comparison] = []
    runs = sorted({item for paper in papers or project.papers for item in evaluated_runs(plan, paper)})
    runs = [(run, seed) for run, seed in runs if f"runs/{plan.scale}/{run}-seed{seed}" in entries]
    if not runs:
        raise AssetError(f"no evaluated run of {', '.join(papers)} is published at scale {plan.scale}")
    with tempfile.TemporaryDirectory(prefix="replica-", dir=layout.results) as name:
        passing = Layout(name)
        passing.assets.symlink_to(layout.assets)
        for run, seed in runs:
            _check_data(plan, layout, run)
            folder, target = layout.run(plan.scale, run, seed), passing.run(plan.scale, run, seed)
            target.mkdir(parents=True)
            for file in [manifest.NAME, *manifest.verify(folder)["files"]]:
                shutil.copyfile(folder / file, target / file)
            again = evaluate_run(job_of(project, plan, run, seed, passing))
            comparisons += _compare(read_file(folder / "metrics.json") or {"tasks": {}}, again, run, seed)
            shutil.rmtree(target)
    return comparisons


def _check_data(plan: Plan, layout: Layout, run: str) -> None:
    for prepared in plan.run(run).evaluate.values():
        path = layout.prepared(prepared) / manifest.NAME
        if not path.exists():
            raise AssetError(
                f"{path}: missing, and without its tokens {run} cannot be scored (not everything may be passed on); "
                f"`snakemake {path.relative_to(layout.root)}` makes it from the data set's own source"
            )


def _compare(published: dict, again: dict, run: str, seed: int) -> list[Comparison]:
    comparisons = []
    for task, metrics in published["tasks"].items():
        for metric, facts in metrics.items():
            value = again["tasks"].get(task, {}).get(metric, {}).get("value")
            comparisons.append(
                Comparison(run, seed, task, metric, facts["value"], facts.get("low"), facts.get("high"), value)
            )
    return comparisons
