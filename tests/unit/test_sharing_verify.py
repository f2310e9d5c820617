"""Verification: damage of every kind is named where results are verified and where they are read, and gives no other number."""

from __future__ import annotations

import json
import shutil
from argparse import Namespace
from pathlib import Path

import pytest

from replica.assets import manifest
from replica.claims.compare import report
from replica.claims.ledger import merge, numbers, read_claims, summary, to_csv, to_json
from replica.cli.pin import pin
from replica.cli.verify import verify as verb
from replica.errors import ReplicaError
from replica.files import write_json, write_text
from replica.plan import build_plan
from replica.report import tables
from replica.sharing.verify import verify

from .synthetic_checkout import fill, make, store


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A toy project with runs, measurements, claims, tables and ledger."""
    root = tmp_path_factory.mktemp("whole")
    project = make(root)
    plan, results = build_plan(project, "laptop"), root / "results"
    fill(results, plan.named["toy"])
    claims = _report(project, plan, results)
    store(results / "laptop" / "papers" / "toy" / "claims.json", claims)
    tables.write(project.paper("toy"), claims, results / "laptop" / "papers" / "toy" / "tables")
    rows = merge([claims])
    write_text(results / "claims.json", to_json(rows))
    write_text(results / "claims.csv", to_csv(rows))
    write_json(results / "summary.json", summary(rows))
    write_json(results / "numbers.json", numbers(rows))
    return root, claims


@pytest.fixture
def checkout(whole, tmp_path):
    """A copy of the whole project to damage; gives project, plan, results and the claims before."""
    root, claims = whole
    shutil.copytree(root, tmp_path / "copy")
    project = make(tmp_path / "copy")
    return project, build_plan(project, "laptop"), tmp_path / "copy" / "results", claims


def _report(project, plan, results):
    return report(project, "toy", "laptop", results, plan.named["toy"], set(plan.wanted["toy"]))


def _swap(first: Path, second: Path) -> None:
    one, other = first.read_bytes(), second.read_bytes()
    first.write_bytes(other)
    second.write_bytes(one)


def _edit(path: Path, before: str, after: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert before in text
    path.write_text(text.replace(before, after, 1), encoding="utf-8")


def _exchange_arms(results, plain, small):
    for name in ("metrics.json", "manifest.json"):
        for seed in range(3):
            if name == "metrics.json" or (plain / f"seed{seed}" / name).exists():
                _swap(plain / f"seed{seed}" / name, small / f"seed{seed}" / name)


def _train_again(results, plain, small):
    store(plain / "seed1" / "manifest.json", {"seconds": 2})
    metrics = json.loads((plain / "seed1" / "metrics.json").read_text(encoding="utf-8"))
    manifest.write(plain / "seed1", run=metrics["run"], seed=1, seconds=3)


#: Damage by name: what does it, what is said, and whether reading the claims meets it (else only the verification does).
DAMAGE = {
    "metrics of two arms exchanged": (
        lambda results, plain, small: [_swap(plain / f"seed{s}/metrics.json", small / f"seed{s}/metrics.json") for s in range(3)],
        "files were exchanged", True),
    "whole arms exchanged": (_exchange_arms, "files were exchanged", True),
    "two seeds exchanged": (
        lambda results, plain, small: _swap(plain / "seed0/metrics.json", plain / "seed1/metrics.json"), "files were exchanged", True),
    "a digit of a score": (
        lambda results, plain, small: _edit(plain / "seed1/metrics.json", "0.84", "0.94"), "edited or corrupt", True),
    "a score that is true": (
        lambda results, plain, small: _edit(plain / "seed1/metrics.json", '"value": 0.84', '"value": true'), "edited or corrupt", True),
    "a truncated file": (
        lambda results, plain, small: write_text(plain / "seed1/metrics.json", '{"run": "x", "ta'), "corrupt, not JSON", True),
    "a model that was trained again after it was scored": (_train_again, "the run was made again since", True),
    "a digit of a structural measurement": (
        lambda results, plain, small: _edit(results / "structural/toy.json", "1000", "1001"), "edited or corrupt", True),
    "structural measurements of another paper": (
        lambda results, plain, small: store_other(results), "is of paper other, not of toy", True),
    "predictions of something else": (
        lambda results, plain, small: (plain / "seed1/predictions.parquet").write_bytes(b"other"),
        "is not the file that metrics.json was computed from", True),
    "a ledger without its CSV": (
        lambda results, plain, small: (results / "claims.csv").unlink(), "differs from claims.json", False),
    "a history of something else": (
        lambda results, plain, small: _edit(plain / "seed0/history.jsonl", '"loss": 1.0', '"loss": 0.1'),
        "history.jsonl: sha256 is", False),
    "a verdict in the claims": (
        lambda results, plain, small: _edit(results / "laptop/papers/toy/claims.json", '"inconclusive"', '"contradicted"'),
        "edited or corrupt", False),
    "claims of other results, sealed": (
        lambda results, plain, small: change_claims(results), "the stored results give", False),
    "a verdict in a table": (
        lambda results, plain, small: _edit(results / "laptop/papers/toy/tables/trends.csv", "inconclusive", "contradicted"),
        "is not the table that the stored results give", False),
    "a verdict in the ledger": (
        lambda results, plain, small: _edit(results / "claims.json", '"inconclusive"', '"contradicted"'), "edited or corrupt", False),
    "a verdict in the ledger's CSV": (
        lambda results, plain, small: _edit(results / "claims.csv", "inconclusive", "contradicted"), "differs from claims.json", False),
    "a number in the summary": (
        lambda results, plain, small: write_json(results / "summary.json", {}), "differs from claims.json", False),
}  # fmt: skip


def store_other(results: Path) -> None:
    content = json.loads((results / "structural" / "toy.json").read_text(encoding="utf-8"))
    seal = content.pop("seal")
    from replica.seals import write_sealed

    write_sealed(results / "structural" / "toy.json", {**content, "paper": "other"}, settings=seal["settings"])


def change_claims(results: Path) -> None:
    path = results / "laptop" / "papers" / "toy" / "claims.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    next(row for row in content["rows"] if row["verdict"] == "inconclusive")["verdict"] = "contradicted"
    store(path, content)


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_named_and_gives_no_other_number(checkout, kind):
    project, plan, results, before = checkout
    assert verify(project, plan, results).damage == []
    runs = results / "laptop" / "runs"
    damage, said, read = DAMAGE[kind]
    damage(results, runs / plan.named["toy"]["laptop"]["plain"], runs / plan.named["toy"]["laptop"]["small-a"])
    lines = verify(project, plan, results).damage
    assert any(said in line for line in lines), lines
    assert all("\n" not in line for line in lines)
    if read:
        with pytest.raises(ReplicaError, match=said):
            _report(project, plan, results)
    else:
        assert _report(project, plan, results) == before, "what only shows numbers does not change them"


def test_pinned_evidence_is_verified_too(checkout, capsys):
    project, plan, results, _ = checkout
    pin(Namespace(root=str(project.root), scale="laptop"))
    pinned = results / "pinned"
    assert verify(project, plan, pinned).damage == []
    run = plan.named["toy"]["laptop"]["plain"]
    _edit(pinned / "laptop" / "runs" / f"{run}.json", "0.84", "0.94")
    options = Namespace(root=str(project.root), scale=None, path=str(pinned))
    assert verb(options) == 1
    said = capsys.readouterr().out
    assert f"damaged: {pinned}/laptop/runs/{run}/seed1/metrics.json" in said and "checked" in said


def test_data_and_models_are_verified(checkout):
    project, plan, results, _ = checkout
    folder = Path(project.root) / "assets" / "prepared" / "toy-1"
    folder.mkdir(parents=True)
    (folder / "train.parquet").write_bytes(b"rows")
    manifest.write(folder, name="toy-1")
    assert verify(project, plan, results, assets=True).damage == []
    (folder / "train.parquet").write_bytes(b"rowt")
    [line] = verify(project, plan, results, assets=True).damage
    assert f"{folder / 'train.parquet'}: sha256 is" in line


def test_claims_of_another_paper_and_a_ledger_are_no_papers_claims(checkout):
    _, _, results, _ = checkout
    claims = results / "laptop" / "papers" / "toy" / "claims.json"
    with pytest.raises(ReplicaError, match="is of paper toy, not of other"):
        read_claims(claims, "other")
    with pytest.raises(ReplicaError, match="lacks `paper`"):
        read_claims(results / "claims.json", "toy")
