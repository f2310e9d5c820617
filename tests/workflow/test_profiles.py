"""`snakemake --profile …`: what jobs ask a cluster for, to the letter, and how a workstation hands out its GPUs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from replica.config import load_project
from replica.plan import build_plan
from replica.plan.planned_jobs import planned_jobs
from replica.plan.resources import evaluation_resources, training_resources

from .checkout import ROOT, make_checkout
from .fake_slurm import FakeSlurm, available

pytestmark = [
    pytest.mark.workflow,
    pytest.mark.skipif(not available(), reason="no bash or flock for the stand-ins"),
]

#: Rules that run where Snakemake does.
LOCAL = (
    "all",
    "retrieve_dataset",
    "retrieve_model",
    "compare",
    "ledger",
    "tables",
    "figures",
    "bibliography",
    "report",
)
QUICK = (
    "--replica-slurm-init-seconds-before-status-checks",
    "1",
    "--replica-slurm-max-seconds-between-status-checks",
    "1",
    "--max-jobs-per-timespan",
    "50/1s",  # Snakemake ends no sooner than its timespan
)


def _checkout(folder: Path, papers: list[str]) -> Path:
    """A checkout with the links that stand at the top of a clone."""
    make_checkout(folder, papers)
    for name in ("profiles", "slurm", "slurm-gres", "workstation"):
        (folder / name).symlink_to(os.readlink(ROOT / name))
    return folder


def _plan(folder: Path, scale: str):
    project = load_project(folder, quick=False)
    return project, build_plan(project, scale)


def _pretend(folder: Path, plan, runs: list[str], *, trained: bool = False) -> None:
    """Make the manifests that the runs wait for (and their own), so that nothing is retrieved or prepared."""
    for run_id in runs:
        run = plan.runs[run_id]
        needed = [folder / "assets" / "prepared" / run.data / "manifest.json"]
        needed += [folder / "assets" / "models" / name / "manifest.json" for name in run.models]
        needed += [folder / "assets" / "prepared" / name / "manifest.json" for name in run.evaluate.values()]
        for seed in sorted(run.seeds):
            for parent in run.parents.values():
                needed.append(_folder(folder, plan, parent, plan.parent_seed(parent, seed)) / "manifest.json")
            if trained:
                needed += [
                    _folder(folder, plan, run_id, seed) / name
                    for name in ("manifest.json", "model.safetensors", "history.jsonl")
                ]
        needed += [_folder(folder, plan, name, 0) / "manifest.json" for name in run.candidates]
        for path in needed:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            age = (
                2000 if path.is_relative_to(folder / "assets") else 1000
            )  # what is made is newer than what it is made from
            os.utime(path, (time.time() - age,) * 2)


def _folder(folder: Path, plan, run: str, seed: int) -> Path:
    return folder / "results" / plan.scale / "runs" / run / f"seed{seed}"


def _submit(
    folder: Path,
    slurm: FakeSlurm,
    profile: str,
    rules: tuple[str, ...],
    targets: list[str],
    *options: str,
    **environment: str,
):
    """Run Snakemake with a profile against the stand-ins, whose jobs all fail, and return what was submitted."""
    command = [sys.executable, "-m", "snakemake", "--profile", profile, *QUICK, "--retries", "0", *options]
    command += ["--nocolor", "--config", "scale=paper", "--allowed-rules", *rules, "--", *targets]
    done = subprocess.run(
        command, cwd=folder, env=slurm.environment(**environment), capture_output=True, encoding="utf-8", timeout=300
    )
    submitted = slurm.submitted()
    assert submitted, done.stdout[-3000:] + done.stderr[-6000:]
    return submitted, done


def _paths(plan, run: str, name: str) -> list[str]:
    return [f"results/{plan.scale}/runs/{run}/seed{seed}/{name}" for seed in sorted(plan.runs[run].seeds)]


def _first(plan, test) -> str:
    return next(run.id for run in plan.runs.values() if run.seeds and test(run))


@pytest.mark.parametrize("profile, gpus", [("slurm", "--gpus={}"), ("slurm-gres", "--gres=gpu:{}")])
def test_flags_of_a_gpu_a_cpu_and_a_multi_gpu_job(tmp_path, profile, gpus):
    folder, slurm = _checkout(tmp_path / "clone", ["minilm"]), FakeSlurm(tmp_path / "slurm")
    project, plan = _plan(folder, "paper")
    one = _first(plan, lambda run: run.stage == "adapt" and run.gpus == 1 and len(run.seeds) == 4)
    eight = _first(plan, lambda run: run.stage == "compress" and run.gpus == 8 and run.spec.root != "minilm-6x768")
    _pretend(folder, plan, [one, eight])
    targets = [
        *_paths(plan, one, "manifest.json"),
        *_paths(plan, eight, "manifest.json"),
        "results/structural/minilm.json",
    ]
    submitted, _ = _submit(folder, slurm, profile, ("adapt", "compress", "measure_structure"), targets)
    lines = {item.rule: item.line() for item in submitted}
    assert len(submitted) == len(lines) == 3, ("four seeds of a run are one array", [item.line() for item in submitted])
    account = "--parsable --export=ALL -A lab"
    assert lines["measure_structure"] == (f"{account} -p cpu -t 20 --mem 4000 --requeue --ntasks=1 --cpus-per-task=1")
    asked = training_resources(project, plan, one)
    assert lines["adapt"] == (
        f"{account} -p gpu -t {asked.runtime} --mem 16000 --nodes=1 --requeue --cpus-per-task=8 {gpus.format(1)}"
        " --array=1-4 /dev/stdin"
    )
    asked = training_resources(project, plan, eight)
    assert lines["compress"] == (
        f"{account} -p gpu -t {asked.runtime} --mem {asked.mem_mb} --nodes=1 --requeue --cpus-per-task=64 {gpus.format(8)}"
    )


@pytest.mark.parametrize("profile, gpus", [("slurm", "--gpus=a100:8"), ("slurm-gres", "--gres=gpu:a100:4")])
def test_a_site_of_four_gpus_a_node_and_one_model(tmp_path, profile, gpus):
    folder, slurm = _checkout(tmp_path / "clone", ["minilm"]), FakeSlurm(tmp_path / "slurm")
    scale, limits = folder / "config" / "scales" / "paper.yaml", folder / "slurm" / "partitions.yaml"
    scale.write_text(
        scale.read_text(encoding="utf-8").replace("gpus_per_node: 8", "gpus_per_node: 4"), encoding="utf-8"
    )
    limits.write_text(limits.read_text(encoding="utf-8").replace("max_nodes: 1", "max_nodes: 4"), encoding="utf-8")
    _, plan = _plan(folder, "paper")
    run = _first(plan, lambda run: run.stage == "compress" and run.gpus == 8)
    _pretend(folder, plan, [run])
    [job], done = _submit(
        folder, slurm, profile, ("compress",), _paths(plan, run, "manifest.json"), "--replica-slurm-gpu-model", "a100"
    )
    assert f"--nodes=2 --requeue --ntasks=2 --cpus-per-task=32 {gpus}" in job.line()
    assert "--ntasks-per-gpu" not in job.flags
    _, done = _submit(folder, slurm, profile, ("compress",), _paths(plan, run, "manifest.json"), "-p", "--dry-run")
    assert "--gpus 8 --nodes 2 " in done.stdout + done.stderr


def test_a_job_that_failed_is_submitted_again_with_more_memory_time_and_its_attempt(tmp_path):
    folder, slurm = _checkout(tmp_path / "clone", ["minilm"]), FakeSlurm(tmp_path / "slurm")
    project, plan = _plan(folder, "paper")
    run = _first(plan, lambda run: run.stage == "adapt" and run.gpus == 1)
    _pretend(folder, plan, [run])
    target = _paths(plan, run, "manifest.json")[:1]
    submitted, _ = _submit(folder, slurm, "slurm", ("adapt",), target, "--retries", "2", FAKE_STATE="OUT_OF_MEMORY")
    asked = training_resources(project, plan, run)
    assert [int(item.flags["--mem"]) for item in submitted] == [16000, 24000, 32000]
    assert [int(item.flags["-t"]) for item in submitted] == [asked.runtime * attempt for attempt in (1, 2, 3)]
    assert ["--attempt 1" in str(item.flags["--wrap"]) for item in submitted] == [True, False, False]
    assert "--attempt 3" in str(submitted[2].flags["--wrap"])


def test_arrays_hold_jobs_that_ask_for_the_same_and_no_job_is_left_out(tmp_path):
    """With a limit on jobs, too: the executor below drops what does not fill an array."""
    folder, slurm = _checkout(tmp_path / "clone", ["minilm"]), FakeSlurm(tmp_path / "slurm")
    _, plan = _plan(folder, "paper")
    runs = {run.gpus: run.id for run in plan.runs.values() if run.stage == "adapt" and run.seeds and not run.candidates}
    chosen = [runs[1], runs[4]]
    _pretend(folder, plan, chosen)
    targets = [path for run in chosen for path in _paths(plan, run, "manifest.json")]
    submitted, _ = _submit(folder, slurm, "slurm", ("adapt",), targets, "--jobs", "3", "--keep-going")
    tasks = [int(str(item.flags.get("--array", "1-1")).split("-")[1]) for item in submitted]
    assert sum(tasks) == len(targets) and max(tasks) <= 3
    assert {item.flags["--gpus"] for item in submitted} == {"1", "4"}


def test_scoring_asks_for_one_gpu_and_measuring_for_a_node_of_its_own(tmp_path):
    folder, slurm = _checkout(tmp_path / "clone", ["minilm"]), FakeSlurm(tmp_path / "slurm")
    project, plan = _plan(folder, "paper")
    run = _first(plan, lambda run: run.stage == "adapt" and run.gpus == 4 and run.evaluate)
    _pretend(folder, plan, [run], trained=True)
    targets = [*_paths(plan, run, "metrics.json")[:1], *_paths(plan, run, "measures.json")[:1]]
    submitted, _ = _submit(folder, slurm, "slurm", ("evaluate", "measure"), targets, "--keep-going")
    jobs = {item.rule: item for item in submitted}
    assert jobs["evaluate"].flags["--gpus"] == "1" and jobs["evaluate"].flags["--cpus-per-task"] == "8"
    assert jobs["evaluate"].flags["-t"] == str(evaluation_resources(project, plan, run).runtime)
    assert jobs["measure"].flags["--exclusive"] is True and jobs["measure"].flags["--cpus-per-task"] == "8"
    assert "--gpus" not in jobs["measure"].flags


def test_the_cores_of_the_login_node_do_not_cut_what_jobs_ask_for(tmp_path):
    """The default profile, which Snakemake reads beneath every other, must leave cores and retries alone."""
    folder = _checkout(tmp_path / "clone", ["minilm"])
    code = (
        "import sys; sys.argv[1:] = {arguments}\n"
        "from snakemake.cli import parse_args\n"
        "_, args = parse_args(sys.argv[1:])\n"
        "print(args.cores, args.retries, args.executor, args.jobs)"
    )
    for arguments, seen in (
        (["--profile", "slurm"], "None 3 replica-slurm 100"),
        (["--profile=slurm-gres"], "None 3 replica-slurm 100"),
        (["--profile", "workstation"], f"{os.cpu_count()} 2 None None"),
        ([], f"{os.cpu_count()} 0 None None"),
    ):
        command = [sys.executable, "-c", code.format(arguments=arguments)]
        done = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8", check=False)
        assert done.stdout.strip().splitlines()[-1] == seen, (arguments, done.stdout, done.stderr[-2000:])


def test_snakemake_asks_for_what_the_plan_says_job_by_job(tmp_path):
    """So that what holds of the plan's jobs (tests/unit/test_plan_profiles.py: all papers) holds of Snakemake's."""
    folder = _checkout(tmp_path / "clone", ["prune_ofa", "bipft"])
    for path in (folder / "workflow" / "rules").glob("*.smk"):  # a job with a message is shown by it alone
        path.write_text(
            re.sub(r"^    message:\n        .*\n", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE),
            encoding="utf-8",
        )
    command = [sys.executable, "-m", "snakemake", "--profile", "slurm", "-n", "--nocolor", "--config", "scale=paper"]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, encoding="utf-8", env=FakeSlurm(tmp_path / "slurm").environment()
    )
    text = done.stdout + done.stderr
    assert done.returncode == 0, text[-3000:]
    found = Counter()
    for block in re.split(r"\n(?=(?:local)?rule )", text):
        if block.startswith("rule ") and (rule := block.split(":")[0].removeprefix("rule ")) not in LOCAL:
            lines = [re.findall(rf"^    {key}: (.*)$", block, re.MULTILINE)[0] for key in ("wildcards", "resources")]
            wildcards, resources = (dict(re.findall(r"(\w+)=([^,\s]+)", text)) for text in lines)
            name = next(wildcards[key] for key in ("run", "prepared", "paper") if key in wildcards)
            found[rule, name, *(int(resources.get(key, 0)) for key in ("mem_mb", "runtime", "gpu"))] += 1
    expected = Counter()
    for job in planned_jobs(*_plan(folder, "paper")):
        resources = job.resources
        expected[job.rule, job.subject, resources.mem_mb, resources.runtime, resources.gpu] += 1
    assert sum(expected.values()) > 300
    assert found == expected


#: Stands for a training: notes its GPUs and when it had them, and makes what the rule must make.
TRAIN = """
import json, os, sys, time
from pathlib import Path
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
out = Path(f"results/{given['--scale']}/runs/{given['--run']}/seed{given['--seed']}")
out.mkdir(parents=True, exist_ok=True)
facts = {"gpus": os.environ.get("CUDA_VISIBLE_DEVICES"), "from": time.time()}
time.sleep(1.0)
Path(f"{given['--run']}-{given['--seed']}.json").write_text(json.dumps(facts | {"to": time.time()}))
for name in ("manifest.json", "history.jsonl", "model.safetensors"):
    (out / name).touch()
"""


def test_workstation_hands_out_gpu_ids_without_collision(tmp_path):
    folder = _checkout(tmp_path / "clone", ["minilm"])
    _, plan = _plan(folder, "paper")
    one = _first(plan, lambda run: run.stage == "adapt" and run.gpus == 1 and len(run.seeds) == 4)
    eight = _first(
        plan, lambda run: run.stage == "compress" and run.gpus == 8 and run.id not in plan.runs[one].parents.values()
    )
    _pretend(folder, plan, [one, eight])
    (folder / "scripts" / "train.py").write_text(TRAIN, encoding="utf-8")
    environment = {**os.environ, "REPLICA_GPUS": "0,1", "REPLICA_GPU_LOCKS": str(tmp_path / "locks")}
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--profile",
        "workstation",
        "--cores",
        "64",
        "--resources",
        "gpu=2",
        "mem_mb=100000",
    ]
    command += ["--nocolor", "--config", "scale=paper", "--allowed-rules", "adapt", "compress", "--"]
    command += [*_paths(plan, one, "manifest.json"), *_paths(plan, eight, "manifest.json")]
    started = time.time()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    facts = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*-*.json")}
    single = [item for name, item in facts.items() if name.startswith(one)]
    both = [item for name, item in facts.items() if name.startswith(eight)]
    assert len(single) == 4 and {item["gpus"] for item in single} == {"0", "1"}, "two at a time, each with its own"
    assert [item["gpus"] for item in both] == ["0,1"], "planned for 8, trained on what is here"
    held = [(set(item["gpus"].split(",")), item) for item in [*single, *both]]
    for mine, item in held:
        for theirs, other in held:
            if item is not other and mine & theirs:
                assert item["to"] <= other["from"] or other["to"] <= item["from"]
    assert all(item["from"] >= started for item in single)
