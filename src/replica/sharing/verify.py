"""Verification of a results folder: files match their seals, belong to their runs, and give the ledger and the tables again."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from replica.assets import manifest
from replica.claims.compare import Row, report
from replica.claims.evidence import Evidence
from replica.claims.ledger import numbers, read_claims, read_ledger, summary, to_csv
from replica.claims.run_files import PACKED, read_file, read_lines, stored_seeds
from replica.config.project import Project
from replica.config.schema import Paper
from replica.errors import ReplicaError, ResultError
from replica.files import read_result, sha256_file
from replica.paths import HISTORY, MANIFEST, Layout
from replica.plan import Plan
from replica.report import tables
from replica.seals import SEAL, code_hash


@dataclass
class Verified:
    """Outcome of `verify`: how many things of each kind were checked, and a sentence for each that is damaged."""

    checked: Counter[str] = field(default_factory=Counter)
    damage: list[str] = field(default_factory=list)
    #: seeds that other code made than this checkout's, and seeds that do not say which
    other_code: int = 0
    unknown_code: int = 0

    @contextmanager
    def check(self, kind: str) -> Iterator[None]:
        """Count a thing that the block checks, and note its damage."""
        self.checked[kind] += 1
        try:
            yield
        except ReplicaError as error:
            self.damage.append(str(error))


def verify(project: Project, plan: Plan, results: Path, assets: bool = False) -> Verified:
    """Check a results folder (or a pinned one), and with `assets` the data and models of the checkout.

    Seeds of every scale are read; claims, ledger and tables are computed again at the plan's scale, for the project's papers.
    """
    outcome = Verified()
    for runs in sorted(results.glob("*/runs")):
        _runs(runs, outcome)
    for paper in project.papers.values():
        if (results / "structural" / f"{paper.id}.json").is_file():
            with outcome.check("structural files"):
                check_structural(project, paper.id, results)
    rows_of_papers: dict[str, list[Row]] = {}
    for name in project.papers:
        with outcome.check("papers"):
            rows_of_papers[name] = check_paper(project, plan, name, results)
    layout = Layout(project.root)
    folder = results / layout.summary(plan.scale).relative_to(layout.results)
    if (folder / "claims.json").is_file():
        with outcome.check("ledgers"):
            check_ledger(folder, rows_of_papers)
    for folder in sorted(layout.assets.glob("*/*/")) if assets else []:
        if folder.parent.name in ("datasets", "models", "prepared") and not folder.name.startswith("."):
            with outcome.check("data sets and models"):
                manifest.verify(folder, name=folder.name)
    return outcome


def _runs(runs: Path, outcome: Verified) -> None:
    for run, seeds in stored_seeds(runs):
        for seed in seeds:
            folder = runs / run / f"seed{seed}"
            with outcome.check("seeds of runs"):
                facts = read_file(folder / MANIFEST)
                if facts is None:
                    raise ResultError(f"{folder / MANIFEST}: missing, so nothing says what {folder} should hold")
                code = facts[SEAL].get("code", {}).get("sha256")
                outcome.unknown_code += code is None
                outcome.other_code += code not in (None, code_hash())
                _seed(folder, facts, runs)


def _seed(folder: Path, facts: dict[str, Any], runs: Path) -> None:
    """Raise for the first file of a seed that is not what its run stored."""
    if folder.is_dir():
        manifest.verify(folder)
    for name in PACKED:
        if name != HISTORY:
            read_file(folder / name)
    read_lines(folder / HISTORY)
    for role, parent in facts.get("parents", {}).items():
        path = runs / parent["run"] / f"seed{parent['seed']}" / MANIFEST
        if path.is_file() and sha256_file(path) != parent["manifest"]:
            raise ResultError(f"{folder / MANIFEST}: was made from another {role} than {path}; make the run again")


def check_structural(project: Project, paper: str, results: Path) -> None:
    """Raise ResultError where a paper's structural measurements are not what was measured for its file."""
    Evidence(project, project.paper(paper), "laptop", results, {}).structural()


def check_paper(project: Project, plan: Plan, paper: str, results: Path) -> list[Row]:
    """Compute a paper's claims again and return their rows; ResultError where stored claims or tables differ from them."""
    named, wanted = plan.named.get(paper, {}), set(plan.wanted.get(paper, []))
    computed = report(project, paper, plan.scale, results, named, wanted)
    folder = results / plan.scale / "papers" / paper
    if (folder / "claims.json").is_file():
        again = f"`snakemake --forcerun compare -- {folder / 'claims.json'}` computes it again"
        _same_rows(folder / "claims.json", read_claims(folder / "claims.json", paper)["rows"], computed["rows"], again)
        if (folder / "tables").is_dir():
            _same_tables(folder / "tables", project.paper(paper), computed)
    return computed["rows"]


def _same_tables(folder: Path, paper: Paper, claims: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        tables.write(paper, claims, Path(scratch) / "tables")
        for path in sorted((Path(scratch) / "tables").iterdir()):
            if not (folder / path.name).is_file() or (folder / path.name).read_bytes() != path.read_bytes():
                raise ResultError(
                    f"{folder / path.name}: is not the table that the stored results give; make the tables again"
                )


def _same_rows(path: Path, stored: list[Row], computed: list[Row], again: str) -> None:
    known = {row["claim"]: row for row in stored}
    for row in computed:
        if (other := known.pop(row["claim"], None)) != row:
            keys = [key for key in row if other is None or other.get(key) != row[key]]
            was = "no such row" if other is None else f"{keys[0]} {other.get(keys[0])!r}"
            raise ResultError(
                f"{path}: {row['paper']} {row['claim']} has {was}, the stored results give {row[keys[0]]!r}; {again}"
            )
    if known:
        raise ResultError(f"{path}: has a row {next(iter(known))}, which the stored results do not give; {again}")


def check_ledger(folder: Path, computed: dict[str, list[Row]]) -> None:
    """Raise ResultError where a ledger or a summary beside it differs from the rows of the papers that were computed again."""
    rows, again = read_ledger(folder / "claims.json"), "make it again with `snakemake`"
    for paper in dict.fromkeys(row["paper"] for row in rows):
        if paper in computed:
            _same_rows(folder / "claims.json", [row for row in rows if row["paper"] == paper], computed[paper], again)
    csv = folder / "claims.csv"
    if not csv.is_file() or csv.read_text(encoding="utf-8") != to_csv(rows):
        raise ResultError(f"{folder / 'claims.csv'}: differs from claims.json beside it; {again}")
    for name, value in (("summary.json", summary(rows)), ("numbers.json", numbers(rows))):
        if (folder / name).is_file() and read_result(folder / name) != value:
            raise ResultError(f"{folder / name}: differs from claims.json beside it; {again}")
