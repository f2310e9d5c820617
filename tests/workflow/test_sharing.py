"""Sharing from end to end: runs made here, published, and taken over in a clone that trains nothing; with every kind of remote."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from replica.files import read_json, write_json
from replica.seals import write_sealed

from .checkout import ROOT, snakemake
from .lab import (
    Remote,
    clone,
    dvc,
    folder_remote,
    git,
    make_lab,
    need,
    python_path,
    replica,
    run,
    s3_remote,
    ssh_remote,
    use,
)

pytestmark = pytest.mark.workflow


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A lab in which the runs of two papers were made, and nothing published."""
    folder = make_lab(tmp_path_factory.mktemp("made") / "lab")
    _snakemake(folder)
    return folder


@contextmanager
def _remote(kind: str, place: Path):
    place.mkdir()
    need(kind)
    if kind == "folder":
        yield folder_remote(place)
    else:
        with {"s3": s3_remote, "ssh": ssh_remote}[kind](place) as remote:
            yield remote


def _snakemake(folder, *arguments, check=True):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", python_path(folder))
        return snakemake(folder, *arguments, check=check)


def _would_run(folder):
    """Names of the rules that a call would run, with how many jobs, from Snakemake's table."""
    dry = _snakemake(folder, "-n").stdout
    found = {name: int(count) for name, count in re.findall(r"^([a-z_]+) +(\d+)$", dry, re.MULTILINE)}
    found.pop("total", None)
    assert found or "Nothing to be done" in dry, dry
    return found


def _tables(folder):
    paths = (folder / "results" / "smoke").glob("papers/*/tables/*")
    return {path.relative_to(folder): path.read_bytes() for path in paths}


def _published(made, place, remote: Remote):
    folder = shutil.copytree(made, place / "lab", symlinks=True)
    use(folder, remote)
    said = replica(folder, "publish", **remote.environment).stdout
    return folder, said


def _adopted(folder, place, remote: Remote, *arguments):
    other = clone(folder, place)
    use(other, remote, commit=False)
    return other, replica(other, "adopt", *arguments, **remote.environment).stdout


@pytest.mark.parametrize("kind", ["folder", "s3", "ssh"])
def test_round_trip(made, tmp_path, kind):
    with _remote(kind, tmp_path / "there") as remote:
        folder, said = _published(made, tmp_path, remote)
        count = int(re.search(r"^(\d+) artifacts published", said, re.MULTILINE)[1])
        other, adopted = _adopted(folder, tmp_path / "other", remote)
        assert f"{count} artifacts adopted, 0 were here already" in adopted
        assert _would_run(other) == {}
        assert _tables(other) == _tables(folder) and _tables(other)
        again = replica(folder, "publish", **remote.environment).stdout
        assert f"0 artifacts published, {count} unchanged" in again and "nothing to commit" in again
        _no_secret(remote, [folder, other], said + adopted + again)


def _no_secret(remote, folders, printed):
    """What only this machine knows is in no commit, no file that anybody makes, and on no screen."""
    assert not any(secret in printed for secret in remote.secrets)
    for folder in folders:
        objects = subprocess.run(
            ["git", "cat-file", "--batch-all-objects", "--batch"], cwd=folder, capture_output=True, check=True
        ).stdout
        files = [
            path
            for path in folder.rglob("*")
            if path.is_file() and path.relative_to(folder).as_posix() != ".dvc/config.local"
        ]
        texts = [objects, *(path.read_bytes() for path in files if ".git/" not in str(path))]
        for secret in remote.secrets:
            assert not any(secret.encode() in text for text in texts)


@pytest.fixture(scope="module")
def shared(made, tmp_path_factory):
    """A published lab beside its folder remote."""
    place = tmp_path_factory.mktemp("shared")
    return _published(made, place, Remote(str(place / "remote")))[0]


@pytest.fixture(scope="module")
def adopted(shared, tmp_path_factory):
    """A clone into which everything was adopted."""
    return _adopted(shared, tmp_path_factory.mktemp("adopted") / "clone", Remote(""))[0]


def test_report_is_rebuilt_from_adopted_runs_without_training(adopted, tmp_path):
    folder = shutil.copytree(adopted, tmp_path / "copy", symlinks=True)
    before = _tables(folder)
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    [command] = re.findall(r"^\t@\$\(BIN\)/snakemake (.*--forcerun compare.*) &&", text, re.MULTILINE)
    said = _snakemake(folder, *command.split()).stdout
    assert re.findall(r"^rule (\w+):|^localrule (\w+):", said, re.MULTILINE)
    assert not re.search(r"rule (train|adapt|evaluate|retrieve_\w+|prepare|measure_structure):", said)
    assert _tables(folder) == before


def test_new_version_of_a_method_plans_its_runs_and_what_follows_alone(adopted, tmp_path):
    folder = shutil.copytree(adopted, tmp_path / "copy", symlinks=True)
    path = folder / "src" / "replica" / "methods" / "peft" / "compacter" / "config.py"
    text, count = re.subn(r'("compacter",\s+version=)1', r"\g<1>2", path.read_text(encoding="utf-8"))
    assert count == 1
    path.write_text(text, encoding="utf-8")
    assert _would_run(folder) == {
        "adapt": 1, "evaluate": 1, "measure_structure": 1, "compare": 1, "tables": 1, "figures": 1, "ledger": 1, "report": 1, "all": 1,
    }  # fmt: skip


def test_changed_claim_is_compared_again_though_its_table_was_adopted(adopted, tmp_path):
    """Snakemake's records came along: it sees that the table was made for other claims."""
    folder = shutil.copytree(adopted, tmp_path / "copy", symlinks=True)
    path = folder / "config" / "papers" / "compacter" / "paper.yaml"
    path.write_text(
        path.read_text(encoding="utf-8").replace("where: abstract", "where: the abstract", 1), encoding="utf-8"
    )
    assert set(_would_run(folder)) == {"compare", "tables", "figures", "ledger", "report", "all"}


def test_adopted_checkpoints_score_as_published(adopted):
    said = replica(adopted, "adopt", "--evaluate", "compacter").stdout
    assert re.search(r"0 artifacts adopted, \d+ were here already", said)
    assert re.search(
        r"^equal +adapt-\S+ seed 0, smoke-sentiment accuracy: (\S+) published, \1 here$", said, re.MULTILINE
    )
    assert re.search(r"^(\d+) of \1 metrics are equal to the last digit", said, re.MULTILINE)


def test_checkpoint_that_scores_otherwise_is_named(adopted, tmp_path):
    folder = shutil.copytree(adopted, tmp_path / "copy", symlinks=True)
    name = next(iter(folder.glob("results/smoke/runs/adapt-*compacter*/seed0")))
    facts = read_json(name / "metrics.json")
    facts["tasks"]["smoke-sentiment"]["accuracy"].update(value=2.0, low=2.0, high=2.0)
    write_sealed(
        name / "metrics.json", facts, **{key: value for key, value in facts["seal"].items() if key != "sha256"}
    )
    done = replica(folder, "adopt", "--evaluate", "compacter", check=False)
    assert done.returncode == 2 and f"{name.relative_to(folder)}/metrics.json: sha256 is" in done.stdout, (
        "a forged metric is no pinned one"
    )
    program = (
        "from replica.cli.publishing import _planned; from replica.sharing.reevaluate import reevaluate\n"
        "project, plan = _planned('.', None, []); found = reevaluate(project, plan, ['compacter'])\n"
        "print([(item.run, item.published) for item in found if item.verdict == 'differs'])"
    )
    said = run(folder, [sys.executable, "-c", program], {}, True).stdout
    assert said.strip().splitlines()[-1] == str([(name.parent.name, 2.0)])


def test_never_inside_a_job(shared, tmp_path):
    folder = shutil.copytree(shared, tmp_path / "copy", symlinks=True)
    for verb in ("publish", "adopt"):
        rule = f"rule x:\n    output: 'results/{verb}.txt'\n    log: 'x.log'\n    shell: '{sys.executable} -m replica.cli {verb}'\n"
        (folder / "job.smk").write_text(rule, encoding="utf-8")
        said = _snakemake(folder, "-s", "job.smk", check=False).stdout
        assert f"error: {verb}: Snakemake is at work in this folder" in said, said


def test_dvc_users_find_what_they_expect(shared):
    listed = dvc(shared, "status").stdout
    assert "published:" not in listed, listed
    assert (
        "up to date" in dvc(shared, "status", "--cloud", "published").stdout
        or "in sync" in dvc(shared, "status", "--cloud").stdout
    )
    assert dvc(shared, "stage", "list", "--name-only").stdout.split() == [
        "datasets",
        "structural",
        "papers",
        "published",
    ]


def test_dvc_repro_of_the_papers_runs_snakemake_once(adopted, tmp_path):
    folder = shutil.copytree(adopted, tmp_path / "copy", symlinks=True)
    shutil.rmtree(folder / "results" / "smoke" / "papers" / "compacter" / "tables")
    first = dvc(folder, "repro", "--single-item", "papers").stdout
    assert "> snakemake" in first
    assert (folder / "results" / "smoke" / "papers" / "compacter" / "tables" / "all-claims.csv").exists()
    second = dvc(folder, "repro", "--single-item", "papers").stdout
    assert "Stage 'papers' didn't change, skipping" in second and "snakemake" not in second
    path = folder / "config" / "config.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("quick: true", "quick: false"), encoding="utf-8")
    assert re.search(r"config/config.yaml +quick +True +False", dvc(folder, "params", "diff").stdout)
    assert "papers:" in dvc(folder, "status", "papers").stdout


def test_dvc_metrics_diff_shows_a_changed_number_of_the_ledger(tmp_path):
    folder = make_lab(tmp_path / "lab")
    for value in (1.5, 2.5):
        write_json(folder / "results" / "pinned" / "numbers.json", {"one": {"claim:a": value, "claim:b": 1}})
        git(folder, "add", "--force", "results/pinned")
        git(folder, "commit", "--quiet", "--message", f"numbers {value}")
    said = dvc(folder, "metrics", "diff", "HEAD~1", "HEAD").stdout
    assert re.search(r"numbers.json +one.claim:a +1.5 +2.5 +1", said) and "claim:b" not in said
