"""The pinned evidence is whole: it gives the pinned ledger again to the digit, and its files are those that the runs hashed."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from argparse import Namespace
from pathlib import Path

import pytest
import yaml

from replica.claims.compare import report
from replica.claims.ledger import merge, numbers, parse_ledger, read_ledger, summary, to_csv, to_json
from replica.claims.run_files import pack, read_file, read_lines, stored_seeds
from replica.cli.pin import pin
from replica.cli.render import render
from replica.config import load_project
from replica.errors import ConfigError, ResultError
from replica.files import read_json, write_text
from replica.plan import build_plan

from .synthetic_checkout import STRUCTURAL, fill, make, store

ROOT = Path(__file__).resolve().parents[2]
PINNED = ROOT / "results" / "pinned"


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture(scope="module")
def whole():
    """Every paper of the pinned ledger with the laptop plan."""
    papers = list(dict.fromkeys(row["paper"] for row in read_ledger(PINNED / "claims.json")))
    project = load_project(ROOT, papers=papers)
    return project, build_plan(project, "laptop")


def test_the_pinned_evidence_gives_the_pinned_ledger(whole):
    project, plan = whole
    rows = merge(
        report(project, name, "laptop", PINNED, plan.named[name], set(plan.wanted.get(name, [])))
        for name in project.papers
    )
    ledger = (PINNED / "claims.json").read_text(encoding="utf-8")
    before = {(row["paper"], row["claim"]): row for row in parse_ledger(ledger, "claims.json")}
    changed = [(row, before.get((row["paper"], row["claim"]))) for row in rows]
    assert [pair for pair in changed if pair[0] != pair[1]] == []
    assert to_json(rows) == ledger
    assert to_csv(rows) == (PINNED / "claims.csv").read_text(encoding="utf-8")
    assert numbers(rows) == read_json(PINNED / "numbers.json")
    assert summary(rows) == read_json(PINNED / "summary.json")


def test_pinned_runs_are_of_the_plan():
    planned = build_plan(load_project(ROOT), "laptop").runs
    assert {run for run, _ in stored_seeds(PINNED / "laptop" / "runs")} <= set(planned)


def test_packed_files_are_those_that_the_runs_hashed():
    runs = PINNED / "laptop" / "runs"
    hashes, parents = {}, {}
    for run, seeds in stored_seeds(runs):
        for seed in seeds:
            folder = runs / run / f"seed{seed}"
            manifest = read_file(folder / "manifest.json")
            hashes[run, seed] = sha256(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
            for parent in manifest["parents"].values():
                parents[run, parent["run"], parent["seed"]] = parent["manifest"]
            if (lines := read_lines(folder / "history.jsonl")) is not None:
                text = "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines)
                assert sha256(text) == manifest["files"]["history.jsonl"]["sha256"], folder
    stored = {key: value for key, value in parents.items() if key[1:] in hashes}
    assert stored
    assert all(hashes[key[1:]] == value for key, value in stored.items())


def test_what_dvc_reads_is_pinned():
    settings = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
    plots = [spec for item in settings["plots"] for spec in item.values()]
    names = {*settings["metrics"], *(name for spec in plots for axis in ("x", "y") for name in spec[axis])}
    assert all((ROOT / name).is_file() for name in names), names


def test_the_repository_stays_small():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, encoding="utf-8", check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    assert len(listed.stdout.splitlines()) < 1500


@pytest.fixture
def finished(tmp_path):
    """A toy project whose runs, measurements and ledger are stored; gives its root, project and ledger."""
    project = make(tmp_path)
    results = tmp_path / "results"
    plan = build_plan(project, "laptop")
    fill(results, plan.named["toy"])
    store(results / "structural" / "toy.json", STRUCTURAL)
    rows = merge([report(project, "toy", "laptop", results, plan.named["toy"], set(plan.wanted["toy"]))])
    write_text(results / "claims.json", to_json(rows))
    return tmp_path, rows


def options(root: Path, **values) -> Namespace:
    defaults = {"papers": [], "source": None, "out": None, "scale": "laptop", "site": False}
    return Namespace(root=str(root), **{**defaults, **values})


def test_pinned_evidence_is_enough_for_ledger_tables_figures_and_site(finished):
    root, rows = finished
    pin(options(root))
    pinned = {path.relative_to(root / "results" / "pinned").as_posix() for path in (root / "results").rglob("*.json")
              if path.is_relative_to(root / "results" / "pinned")}  # fmt: skip
    assert {"claims.json", "numbers.json", "structural/toy.json"} < pinned
    assert not any("seed" in name for name in pinned)
    shutil.move(root / "results" / "pinned", root / "evidence")
    shutil.rmtree(root / "results")
    (root / "new").mkdir()
    (root / "new" / "rendered.json").write_text("{}", encoding="utf-8")  # a rendering may be renewed
    assert render(options(root, source=root / "evidence", out=root / "new", site=True)) == 0
    assert read_ledger(root / "new" / "claims.json") == rows
    paper = root / "new" / "laptop" / "papers" / "toy"
    assert {".csv", ".md", ".tex"} <= {path.suffix for path in (paper / "tables").iterdir()}
    assert (paper / "figures" / "verdicts.svg").is_file()
    pages = {path.stem for path in (root / "new" / "report" / "site" / "runs").glob("*.html")}
    assert {path.stem for path in (root / "evidence" / "laptop" / "runs").iterdir()} <= pages


@pytest.mark.parametrize("name", ["papers.bib", "structural/toy.json", "laptop/runs/RUN/seed0/metrics.json"])
def test_no_link_is_pinned_and_no_file_that_the_ledger_does_not_name(finished, name):
    root, _ = finished
    write_text(root / "results" / "structural" / "other.json", "{}")
    pin(options(root))
    assert not (root / "results" / "pinned" / "structural" / "other.json").exists()
    run = next(
        path for path in (root / "results" / "laptop" / "runs").iterdir() if (path / "seed0" / "metrics.json").exists()
    )
    path = root / "results" / name.replace("RUN", run.name)
    if not path.exists():
        write_text(path, "x")
    path.rename(root / "elsewhere")
    path.symlink_to(root / "elsewhere")
    before = {file: file.read_bytes() for file in (root / "results" / "pinned").rglob("*") if file.is_file()}
    with pytest.raises(ResultError, match=rf"{path.name}: leads out of .* or through a link"):
        pin(options(root))
    assert {file: file.read_bytes() for file in before} == before


def test_a_rendering_replaces_nothing_else(finished):
    root, _ = finished
    pin(options(root))
    with pytest.raises(ConfigError, match="holds files that `replica render` did not write"):
        render(options(root, out=root / "results"))


def test_packing_keeps_seeds_in_order_and_refuses_what_is_corrupt(tmp_path):
    for seed in (10, 2):
        folder = tmp_path / "run" / f"seed{seed}"
        folder.mkdir(parents=True)
        if seed == 2:
            (folder / "history.jsonl").write_text('{"loss": 1e-05}\n{"loss": 2.5}\n', encoding="utf-8")
        store(folder / "metrics.json", {"tasks": {"a": 0.1}})
        (folder / "model.json").write_text("{}", encoding="utf-8")
    text = pack(tmp_path / "run")
    names = ["history.jsonl", "manifest.json", "metrics.json"]
    assert list(json.loads(text)) == [*(f"seed2/{name}" for name in names), *(f"seed10/{name}" for name in names[1:])]
    assert '{"loss": 1e-05}' in text, "numbers as they were written"
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "run.json").write_text(text, encoding="utf-8")
    assert dict(stored_seeds(tmp_path / "packed")) == dict(stored_seeds(tmp_path)) == {"run": [2, 10]}
    assert read_file(tmp_path / "packed" / "run" / "seed2" / "metrics.json", "tasks") == {"a": 0.1}
    assert read_file(tmp_path / "packed" / "run" / "seed3" / "metrics.json") is None
    (tmp_path / "run" / "seed2" / "metrics.json").write_text("{", encoding="utf-8")
    with pytest.raises(ResultError, match=r"seed2/metrics\.json: corrupt"):
        pack(tmp_path / "run")
