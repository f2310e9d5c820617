"""The configuration and the plan, read once; and the functions through which rules ask them. Nothing here imports torch."""

import functools
import os
import sys

from snakemake.exceptions import WorkflowError

from replica.config import load_project
from replica.errors import ReplicaError, nearest
from replica.plan import build_plan
from replica.plan.resources import (
    evaluation_of,
    grown_memory,
    grown_runtime,
    preparation_of,
    resources_of,
    structural,
)
from replica.plan.outputs import (
    asset_fingerprint,
    claimed_papers,
    evaluated_runs,
    fingerprint,
    paper_inputs,
)
from replica.jobs.snakemake_patches import patch_snakemake

# Jobs use the Python that runs Snakemake, whether or not its environment is activated.
# Training takes and returns the same large blocks at every step: glibc keeps them (4 GB at most a block) instead of giving them back to
# the kernel, and lets it use large pages; a step takes 5 % less time, half of that which the kernel took. Other C libraries ignore it.
MEMORY = ":".join(
    f"glibc.malloc.{key}"
    for key in ("hugetlb=1", f"mmap_threshold={2**32}", f"trim_threshold={2**33}")
)
shell.prefix(
    f"set -euo pipefail; export PATH='{os.path.dirname(sys.executable)}':$PATH"
    f" GLIBC_TUNABLES=${{{{GLIBC_TUNABLES:-{MEMORY}}}}}; "
)


patch_snakemake()

KEYS = ("papers", "scale", "quick", "claims", "paper", "measured")
for key in config:
    if key not in KEYS:
        raise WorkflowError(f"--config {key}: unknown key{nearest(key, KEYS)}")

try:
    PROJECT = load_project(
        ".", **{key: config.get(key) for key in ("papers", "scale", "quick", "claims")}
    )
    PLAN = build_plan(PROJECT)
except ReplicaError as error:
    raise WorkflowError(str(error))

SCALE = PLAN.scale
PREPARATION, STRUCTURAL = preparation_of(PROJECT.scale(SCALE)), structural()
# The ledger of a scale that only proves the plumbing stands beside its results, not in the place people read.
PREFIX = "results/smoke/" if SCALE == "smoke" else "results/"
LEDGER = f"{PREFIX}claims.csv"
REPORT = f"{PREFIX}report/index.html"
BIBLIOGRAPHY = f"{PREFIX}papers.bib"


onstart:
    # What `replica watch` shows, as a line a minute in the log of this call.
    from snakemake.logging import logger
    from replica.cli.watch import progress_thread

    progress_thread(PROJECT, PLAN, logger.info)


wildcard_constraints:
    scale="smoke|laptop|paper",
    run=r"(pretrain|teacher|targets|compress|adapt)-[a-z0-9-]+-[0-9a-f]{8}",
    seed=r"\d+",
    task=r"[a-z0-9.-]+-[0-9a-f]{8}",
    paper=r"[a-z][a-z0-9_]*",
    asset=r"[A-Za-z0-9._-]+",


def run_folder(run, seed):
    """Folder of one seed of a run at this call's scale."""
    return f"results/{SCALE}/runs/{run}/seed{seed}"


def run_inputs(wildcards):
    """What one seed of a run is made from: parents' manifests, tried candidates, tokenized data, models."""
    run, seed = PLAN.run(wildcards.run), int(wildcards.seed)
    found = {
        role: f"{run_folder(parent, PLAN.parent_seed(parent, seed))}/manifest.json"
        for role, parent in run.parents.items()
    }
    if run.candidates:
        found["candidates"] = [
            f"{run_folder(name, 0)}/manifest.json" for name in run.candidates
        ]
    found["data"] = f"assets/prepared/{run.data}/manifest.json"
    if "beside" in run.spec:
        found["beside"] = f"assets/prepared/{run.spec['beside']['data']}/manifest.json"
    if "together" in run.spec:
        found["together"] = [
            f"assets/prepared/{other['data']}/manifest.json"
            for other in run.spec["together"]
        ]
    if run.models:
        found["models"] = [f"assets/models/{name}/manifest.json" for name in run.models]
    return found


def evaluation_inputs(wildcards):
    """The run's manifest and the tokenized data of every task it is scored on."""
    run = PLAN.run(wildcards.run)
    return {
        "run": f"{run_folder(wildcards.run, wildcards.seed)}/manifest.json",
        "data": [
            f"assets/prepared/{name}/manifest.json"
            for name in sorted(run.evaluate.values())
        ],
    }


def evaluation_tasks(wildcards):
    """Names of the tasks, so that another list of tasks scores the run again."""
    return " ".join(sorted(PLAN.run(wildcards.run).evaluate))


def evaluation_metrics(wildcards):
    """Metrics of the tasks and the level of their intervals, so that others are computed again."""
    tasks = sorted(PLAN.run(wildcards.run).evaluate)
    metrics = [metric.name for task in tasks for metric in PROJECT.task(task).metrics]
    return " ".join([*metrics, str(PROJECT.settings.confidence_level)])


def measure_options(wildcards):
    """What is measured of a run, so that other sizes are measured again."""
    options = PLAN.run(wildcards.run).measure or {}
    return " ".join(f"{key}={value}" for key, value in sorted(options.items()))


def dataset_fingerprint(wildcards):
    """Hash of a data set's entry, so that another source or pin is retrieved again."""
    return asset_fingerprint(PROJECT.dataset(wildcards.asset))


def model_fingerprint(wildcards):
    """Hash of a model's entry, so that another source, pin or size is retrieved again."""
    return asset_fingerprint(PROJECT.model(wildcards.asset))


def prepare_inputs(wildcards):
    """Data set and tokenizer of tokenized data."""
    prepared = PLAN.prepared[wildcards.task]
    return {
        "dataset": f"assets/datasets/{prepared.dataset}/manifest.json",
        "tokenizer": f"assets/models/{prepared.tokenizer}/manifest.json",
    }


def prepare_task(wildcards):
    """Task of tokenized data."""
    return PLAN.prepared[wildcards.task].task


def prepare_length(wildcards):
    """Longest input of tokenized data, in tokens."""
    return PLAN.prepared[wildcards.task].max_length


def wanted_metrics(wildcards):
    """Metrics of every run that an enabled paper's claims read."""
    return [
        f"{run_folder(run, seed)}/metrics.json" for run, seed in evaluated_runs(PLAN)
    ]


def wanted_assets(wildcards):
    """Data sets and models that the enabled papers' runs read."""
    datasets = {prepared.dataset for prepared in PLAN.prepared.values()}
    models = {prepared.tokenizer for prepared in PLAN.prepared.values()}
    models |= {model for run in PLAN.runs.values() for model in run.models}
    return [
        *(f"assets/datasets/{name}/manifest.json" for name in sorted(datasets)),
        *(f"assets/models/{name}/manifest.json" for name in sorted(models)),
    ]


def present(files):
    """Return files; with `--config measured=true` (`make report`) only those that are there: what is missing is not run."""
    return [
        file for file in files if not config.get("measured") or os.path.exists(file)
    ]


def all_evidence(wildcards):
    """Every paper's measurements and claims: Snakemake makes a deleted file again only where a target asks for it."""
    claims = [f"results/{SCALE}/papers/{name}/claims.json" for name in PROJECT.papers]
    measured = {
        file for name in PROJECT.papers for file in paper_inputs(PROJECT, PLAN, name)
    }
    return [*claims, *present(sorted(measured))]


def compare_inputs(wildcards):
    """Everything a paper's claims are computed from."""
    return present(paper_inputs(PROJECT, PLAN, wildcards.paper))


def compare_fingerprint(wildcards):
    """Hash of the paper's claims, so that a changed claim is compared again."""
    return fingerprint(PROJECT.paper(wildcards.paper), "claims", PROJECT)


def structural_fingerprint(wildcards):
    """Hash of what a paper's structural run measures."""
    return fingerprint(PROJECT.paper(wildcards.paper), "measurements", PROJECT)


def layout_fingerprint(wildcards):
    """Hash of a paper's tables, figures and texts."""
    return fingerprint(PROJECT.paper(wildcards.paper), "layout")


def report_fingerprint(wildcards):
    """Hash of all papers' tables, figures and texts."""
    return "-".join(fingerprint(paper, "layout") for paper in PROJECT.papers.values())


def papers_asked_for():
    """Papers named by `--config paper=NAME,NAME`, or those whose claims `--config claims=ID,ID` names."""
    names = str(config.get("paper") or "").replace(",", " ").split()
    names = names or claimed_papers(PROJECT)
    for name in names or [""]:
        if name not in PROJECT.papers:
            known = nearest(name, PROJECT.papers) if name else ": minilm, say"
            raise WorkflowError(
                f"target paper: `--config paper={name or 'NAME'}` must name an enabled paper{known}"
            )
    return names


def paper_outputs(wildcards):
    """Tables and figures of the papers asked for, and what they are made from: Snakemake makes a deleted file again only so."""
    made = [
        f"results/{SCALE}/papers/{name}/{kind}"
        for name in papers_asked_for()
        for kind in ("tables", "figures", "claims.json")
    ]
    measured = {
        file
        for name in papers_asked_for()
        for file in paper_inputs(PROJECT, PLAN, name)
    }
    return [*made, *present(sorted(measured))]


def run_threads(wildcards):
    """Processor cores of a run on each of its nodes."""
    return resources_of(PROJECT, PLAN, wildcards.run)["threads"]


def run_mem_mb(wildcards, attempt):
    """Memory of a run in MB; half as much again with every attempt."""
    return grown_memory(resources_of(PROJECT, PLAN, wildcards.run)["mem_mb"], attempt)


def run_minutes(wildcards, attempt):
    """Time limit of a run in minutes; once more with every attempt."""
    minutes = resources_of(PROJECT, PLAN, wildcards.run)["runtime"]
    return grown_runtime(minutes, attempt, PROJECT.scale(SCALE).runtime)


def run_gpu(wildcards):
    """GPUs of a run, over all its nodes."""
    return resources_of(PROJECT, PLAN, wildcards.run)["gpu"]


def run_nodes(wildcards):
    """Nodes of a run."""
    return resources_of(PROJECT, PLAN, wildcards.run)["nodes"]


def run_mpi(wildcards):
    """How a run over several nodes starts a process on each, so that the executor leaves that to it; None on one node."""
    return "srun" if run_nodes(wildcards) > 1 else None


def run_attempt(wildcards, attempt):
    """How often the job was submitted: one that comes back after a kill trains smaller micro-batches."""
    return attempt


@functools.cache
def evaluation(run):
    """What scoring a run needs."""
    return evaluation_of(PROJECT, PLAN, run)


def evaluate_threads(wildcards):
    """Processor cores for scoring a run."""
    return evaluation(wildcards.run)["threads"]


def evaluate_mem_mb(wildcards, attempt):
    """Memory for scoring a run in MB; half as much again with every attempt."""
    return grown_memory(evaluation(wildcards.run)["mem_mb"], attempt)


def evaluate_minutes(wildcards, attempt):
    """Time limit for scoring a run in minutes; once more with every attempt."""
    minutes = evaluation(wildcards.run)["runtime"]
    return grown_runtime(minutes, attempt, PROJECT.scale(SCALE).runtime)


def evaluate_gpu(wildcards):
    """The GPU that a run is scored on, if it was trained on any."""
    return evaluation(wildcards.run)["gpu"]


def prepare_mem_mb(wildcards, attempt):
    """Memory for tokenizing in MB; half as much again with every attempt."""
    return grown_memory(PREPARATION["mem_mb"], attempt)


def structural_mem_mb(wildcards, attempt):
    """Memory for measuring models without weights in MB; half as much again with every attempt."""
    return grown_memory(STRUCTURAL["mem_mb"], attempt)
