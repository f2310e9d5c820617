"""The whole chain at smoke scale through real Snakemake: made once, nothing to do twice, honest when something is missing."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
import zipfile

import pytest

from replica.config import load_project
from replica.plan import build_plan

from .checkout import ROOT, environment, make_checkout, snakemake

pytestmark = pytest.mark.workflow
COLUMNS = [
    "paper",
    "claim",
    "evidence",
    "scale",
    "metric",
    "dataset",
    "split",
    "paper_value",
    "our_value",
    "low",
    "high",
    "seeds",
    "unit",
    "direction",
    "tolerance",
    "verdict",
    "reason",
    "runs",
    "source",
    "confidence",
]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """A checkout in which the smoke scale of one paper has run."""
    folder = make_checkout(tmp_path_factory.mktemp("smoke"), ["compacter"], sections=["laptop"])
    done = snakemake(folder, "--config", "scale=smoke")
    return folder, done.stdout


def _rows(folder):
    with open(folder / "results" / "smoke" / "claims.csv", encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def test_ledger_has_every_claim_with_the_agreed_columns(smoke):
    folder, _ = smoke
    rows = _rows(folder)
    assert list(rows[0]) == COLUMNS
    claims = {claim.id for claim in load_project(folder).paper("compacter").claims}
    assert {row["claim"].partition(":")[0] for row in rows} == claims
    assert (
        json.loads((folder / "results/smoke/claims.json").read_text(encoding="utf-8"))["rows"][0].keys()
        == rows[0].keys()
    )


def test_smoke_numbers_prove_no_claim(smoke):
    for row in _rows(smoke[0]):
        if row["evidence"] != "structural":
            assert row["verdict"] in ("not-run", "blocked"), row


def test_page_tables_and_figures_are_there(smoke):
    folder, _ = smoke
    assert (folder / "results/smoke/report/index.html").stat().st_size > 2000
    papers = folder / "results" / "smoke" / "papers" / "compacter"
    assert {path.suffix for path in (papers / "tables").iterdir()} >= {".csv", ".md", ".tex"}
    assert {path.suffix for path in (papers / "figures").iterdir()} >= {".svg", ".png"}


def test_every_run_knows_what_it_cost(smoke):
    manifests = [
        json.loads(path.read_text(encoding="utf-8"))
        for path in smoke[0].glob("results/smoke/runs/*/seed*/manifest.json")
    ]
    trained = [found for found in manifests if found.get("steps", 0) >= 2]
    assert trained
    for found in trained:
        weights = 4 * found["counts"]["total_parameters"]
        assert found["memory"]["peak_bytes"] > 0.9 * weights, found["run"]  # some are kept in bfloat16
        assert found["flops"]["forward"] > 0, found["run"]


def test_second_call_has_nothing_to_do(smoke):
    assert "Nothing to be done" in snakemake(smoke[0], "--config", "scale=smoke").stdout


def test_snakemakes_own_report_has_captions_and_categories(smoke, tmp_path):
    folder, _ = smoke
    snakemake(folder, "--config", "scale=smoke", "--report", str(tmp_path / "report.zip"))
    with zipfile.ZipFile(tmp_path / "report.zip") as archive:
        names = archive.namelist()
        [page] = [name for name in names if name.endswith("report.html")]
        text = archive.read(page).decode()
    tables = list((folder / "results/smoke/papers/compacter/tables").glob("*.csv"))
    figures = list((folder / "results/smoke/papers/compacter/figures").glob("*.svg"))
    assert tables and figures
    for path in [*tables, *figures, folder / "results/smoke/claims.csv", folder / "results/smoke/papers.bib"]:
        assert any(name.endswith(path.name) for name in names), path.name
    for said in (
        "Ledger",
        "Tables",
        "Figures",
        "Structural measurements",
        "A figure of",
        "at scale smoke",
        "at scale <strong>smoke",
    ):
        assert said in text, said


def test_replica_run_makes_a_paper_again_and_ends_with_its_verdicts(smoke, tmp_path):
    folder = shutil.copytree(smoke[0], tmp_path / "copy", symlinks=True)
    [missing, *_] = sorted((folder / "results" / "smoke" / "runs").glob("*/seed0/metrics.json"))
    missing.unlink()
    command = [sys.executable, "-m", "replica.cli", "run", "compacter", "--scale", "smoke", "--snakemake", "--cores 2"]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert missing.exists()
    assert "snakemake paper --config scale=smoke quick=false paper=compacter" in done.stdout
    assert "claims, smoke scale" in done.stdout and "structural" in done.stdout
    [log] = (folder / "logs" / "run").iterdir()
    assert f"evaluating {missing.parents[1].name}" in log.read_text(encoding="utf-8")


#: What follows from a paper's claims.
AFTER_CLAIMS = {"compare", "ledger", "tables", "figures", "report", "all"}


def _would_run(folder):
    """Names of the rules that a call would run, from Snakemake's table of jobs."""
    dry = snakemake(folder, "--config", "scale=smoke", "-n").stdout
    return set(re.findall(r"^([a-z_]+) +\d+$", dry, re.MULTILINE)) - {"total"}


def test_deleted_measurement_is_made_again_from_the_model_that_is_there(smoke, tmp_path):
    folder = shutil.copytree(smoke[0], tmp_path / "copy", symlinks=True)
    plan = build_plan(load_project(folder, quick=False), "smoke")
    run = next(run for run in plan.runs.values() if run.seeds and run.evaluate)
    (folder / "results" / "smoke" / "runs" / run.id / "seed0" / "metrics.json").unlink()
    assert _would_run(folder) == AFTER_CLAIMS | {"evaluate"}


def test_report_of_what_is_measured_shows_a_deleted_number_as_not_run(smoke, tmp_path):
    folder = shutil.copytree(smoke[0], tmp_path / "copy", symlinks=True)
    plan = build_plan(load_project(folder, quick=False), "smoke")
    run = next(run for run in plan.runs.values() if run.seeds and run.evaluate)
    path = f"results/smoke/runs/{run.id}/seed0/metrics.json"
    (folder / path).unlink()
    [command] = re.findall(
        r"^\t@\$\(BIN\)/snakemake (.*--forcerun compare.*) &&",
        (ROOT / "Makefile").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    snakemake(folder, *command.replace("measured=true", "measured=true scale=smoke").split())
    assert not (folder / path).exists(), "the report starts no evaluation"
    rows = [row for row in _rows(folder) if f"{path} is missing" in row["reason"]]
    assert rows and all((row["verdict"], row["our_value"]) == ("not-run", "") for row in rows)


@pytest.mark.parametrize(
    "before, after, rules",
    [
        ("where: abstract", "where: the abstract", AFTER_CLAIMS),
        ("year: ", "year: 1", {"tables", "figures", "bibliography", "report", "all"}),
        ("batch_size: ", "batch_size: 1", None),  # of some run: trained, scored and compared again
    ],
    ids=["claim", "layout", "run"],
)
def test_what_depends_on_a_change_of_a_papers_file_is_made_again(smoke, tmp_path, before, after, rules):
    folder = shutil.copytree(smoke[0], tmp_path / "copy", symlinks=True)
    name = "config/scales/smoke.yaml" if rules is None else "config/papers/compacter/paper.yaml"
    path = folder / name
    path.write_text(path.read_text(encoding="utf-8").replace(before, after, 1), encoding="utf-8")
    assert _would_run(folder) == (rules or AFTER_CLAIMS | {"adapt", "evaluate"})


def test_configuration_error_is_one_message_before_any_job(tmp_path):
    folder = make_checkout(tmp_path, ["compacter"])
    path = folder / "config" / "papers" / "compacter" / "paper.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("name: compacter", "name: compactr", 1), encoding="utf-8")
    done = snakemake(folder, "--config", "scale=smoke", check=False)
    assert done.returncode != 0
    assert "config/papers/compacter/paper.yaml" in done.stdout and "did you mean 'compacter'" in done.stdout
    assert "Traceback" not in done.stdout
    assert not (folder / "results").exists() and not (folder / "assets").exists()


@pytest.mark.parametrize("setting, nearest", [("scale=smok", "smoke"), ("papers=compactr", "compacter")])
def test_unknown_scale_or_paper_on_the_command_line(tmp_path, setting, nearest):
    folder = make_checkout(tmp_path, ["compacter"])
    done = snakemake(folder, "--config", setting, check=False)
    assert done.returncode != 0 and nearest in done.stdout and "Traceback" not in done.stdout


def test_plan_of_ten_thousand_jobs_dry_runs(tmp_path):
    from benchmarks.dag import dry_run

    jobs, seconds = dry_run(tmp_path, 10_000)
    assert jobs >= 10_000
    assert seconds < 90, "far above the 25 s that a quiet machine needs: something became quadratic"
