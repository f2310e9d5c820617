"""The configuration and the plan, read once; and the functions through which rules ask them. Nothing here imports torch."""

import functools
import os
import shlex
import sys

from snakemake.exceptions import WorkflowError

from replica.config import load_project
from replica.errors import ReplicaError, nearest
from replica.plan import build_plan, outputs
from replica.plan.resources import (
    evaluation_resources,
    grown_memory,
    grown_runtime,
    preparation_resources,
    structural_resources,
    training_resources,
)
from replica.plan.run_job import store_plan, stored_plan
from replica.paths import Layout
from replica.jobs.programs import STORED_PLAN
from replica.jobs.snakemake_patches import patch_snakemake

# Jobs use the Python that runs Snakemake, whether or not its environment is activated.
# Training takes and returns the same large blocks at every step: glibc keeps them (4 GB at most a block) instead of giving them back to
# the kernel, and lets it use large pages; a step takes 5 % less time, half of that which the kernel took. Other C libraries ignore it.
MEMORY = ":".join(
    f"glibc.malloc.{key}"
    for key in ("hugetlb=1", f"mmap_threshold={2**32}", f"trim_threshold={2**33}")
)

patch_snakemake()

KEYS = ("papers", "scale", "quick", "claims", "paper", "measured")
for key in config:
    if key not in KEYS:
        raise WorkflowError(f"--config {key}: unknown key{nearest(key, KEYS)}")

try:
    PROJECT = load_project(
        ".", **{key: config.get(key) for key in KEYS if key != "paper"}
    )
    PLAN = build_plan(PROJECT)
except (ReplicaError, OSError) as error:
    raise WorkflowError(str(error))

SCALE = PLAN.scale
PREPARATION = preparation_resources(PROJECT.scale(SCALE))
STRUCTURAL = structural_resources()
# Smoke results prove no claim, so the ledger of that scale lies with them and not where people read.
SUMMARY = Layout().summary(SCALE)
LEDGER = str(SUMMARY / "claims.csv")
REPORT = str(SUMMARY / "report" / "index.html")
BIBLIOGRAPHY = str(SUMMARY / "papers.bib")
# Jobs read their specification from here and plan nothing. It is written when the first job starts, so a dry run writes nothing; and a
# variable is no parameter, so a change of one run makes no other again.
PLAN_FILE, PLAN_TEXT = stored_plan(PROJECT, PLAN)


def in_shell(text):
    """Quote a path for a shell, in a text in which Snakemake replaces names in braces."""
    return shlex.quote(str(text)).replace("{", "{{").replace("}", "}}")


shell.prefix(
    f"set -euo pipefail; export PATH={in_shell(os.path.dirname(sys.executable))}:$PATH {STORED_PLAN}={in_shell(PLAN_FILE)}"
    f" GLIBC_TUNABLES=${{{{GLIBC_TUNABLES:-{MEMORY}}}}}; "
)


onstart:
    store_plan(PLAN_FILE, PLAN_TEXT)
    # Progress as `replica watch` shows it, a line a minute in the log of this call.
    from snakemake.logging import logger
    from replica.cli.watch import progress_thread

    progress_thread(PROJECT, PLAN, logger.info)


wildcard_constraints:
    scale="smoke|laptop|paper",
    run=r"(pretrain|teacher|targets|compress|adapt)-[a-z0-9-]+-[0-9a-f]{8}",
    seed=r"\d+",
    prepared=r"[a-z0-9][a-z0-9.-]*-[0-9a-f]{8}",
    paper=r"[a-z][a-z0-9_]*",
    asset=r"[a-z0-9][a-z0-9.-]*",


def run_inputs(wildcards):
    """Inputs of one seed of a run: parents' manifests, tried candidates, tokenized data, models."""
    return outputs.run_inputs(PLAN, wildcards.run, int(wildcards.seed))


def evaluation_inputs(wildcards):
    """The run's manifest and the tokenized data of every task it is scored on."""
    return outputs.evaluation_inputs(PLAN, wildcards.run, int(wildcards.seed))


def evaluation_tasks(wildcards):
    """Names of the tasks, so that another list of tasks scores the run again."""
    return " ".join(sorted(PLAN.run(wildcards.run).evaluate))


def evaluation_metrics(wildcards):
    """Metrics of the tasks and the level of their intervals, so that others are computed again."""
    tasks = sorted(PLAN.run(wildcards.run).evaluate)
    metrics = [metric.name for task in tasks for metric in PROJECT.task(task).metrics]
    return " ".join([*metrics, str(PROJECT.settings.confidence_level)])


def measure_options(wildcards):
    """Sizes at which a run is measured, so that others are measured again."""
    options = PLAN.run(wildcards.run).measure or {}
    return " ".join(f"{key}={value}" for key, value in sorted(options.items()))


def dataset_fingerprint(wildcards):
    """Hash of a data set's entry, so that another source or pin is retrieved again."""
    return outputs.asset_fingerprint(PROJECT.dataset(wildcards.asset))


def model_fingerprint(wildcards):
    """Hash of a model's entry, so that another source, pin or size is retrieved again."""
    return outputs.asset_fingerprint(PROJECT.model(wildcards.asset))


def prepare_inputs(wildcards):
    """Data set and tokenizer of tokenized data."""
    return outputs.prepare_inputs(PLAN, wildcards.prepared)


def prepare_task(wildcards):
    """Task of tokenized data."""
    return PLAN.prepared[wildcards.prepared].task


def prepare_length(wildcards):
    """Longest input of tokenized data, in tokens."""
    return PLAN.prepared[wildcards.prepared].max_length


def wanted_metrics(wildcards):
    """Metrics of every run that an enabled paper's claims read."""
    return outputs.metrics_files(PLAN)


def wanted_assets(wildcards):
    """Data sets and models that the enabled papers' runs read."""
    return outputs.asset_files(PLAN)


def present(files):
    """Return files; with `--config measured=true` (`make report`) only those that exist, so that no run is started."""
    return [
        file for file in files if not PROJECT.settings.measured or os.path.exists(file)
    ]


def evidence(papers):
    """The files that papers' claims are computed from."""
    files = {file for name in papers for file in outputs.paper_inputs(PLAN, name)}
    return present(sorted(files))


def paper_results(papers, *kinds):
    """Files and folders of papers' results."""
    return [
        str(Layout().paper(SCALE, name) / kind) for name in papers for kind in kinds
    ]


def outputs_of(names):
    """Tables, figures and claims of papers, and their inputs: Snakemake makes a deleted file again only where it is a target."""
    return [
        *paper_results(names, "tables", "figures", "claims.json"),
        *evidence(names),
    ]


def all_outputs(wildcards):
    """The outputs of every enabled paper."""
    return outputs_of(PROJECT.papers)


def compare_inputs(wildcards):
    """The files that a paper's claims are computed from."""
    return present(outputs.paper_inputs(PLAN, wildcards.paper))


def compare_fingerprint(wildcards):
    """Hash of the paper's claims, so that a changed claim is compared again."""
    return outputs.fingerprint(PROJECT.paper(wildcards.paper), "claims", PROJECT)


def structural_fingerprint(wildcards):
    """Hash of a paper's structural measurements."""
    return outputs.fingerprint(PROJECT.paper(wildcards.paper), "measurements", PROJECT)


def layout_fingerprint(wildcards):
    """Hash of a paper's tables, figures and texts."""
    return outputs.fingerprint(PROJECT.paper(wildcards.paper), "layout")


def report_fingerprint(wildcards):
    """Hash of all papers' tables, figures and texts."""
    return "-".join(
        outputs.fingerprint(paper, "layout") for paper in PROJECT.papers.values()
    )


def requested_papers():
    """Papers named by `--config paper=NAME,NAME`, or those whose claims `--config claims=ID,ID` names."""
    names = str(config.get("paper") or "").replace(",", " ").split()
    names = names or outputs.claimed_papers(PROJECT)
    for name in names or [""]:
        if name not in PROJECT.papers:
            known = nearest(name, PROJECT.papers) if name else ": minilm, say"
            raise WorkflowError(
                f"target paper: `--config paper={name or 'NAME'}` must name an enabled paper{known}"
            )
    return names


def paper_outputs(wildcards):
    """The outputs of the requested papers."""
    return outputs_of(requested_papers())


def training(run):
    """Resources for training a run."""
    return training_resources(PROJECT, PLAN, run)


def run_threads(wildcards):
    """Processor cores of a run on each of its nodes."""
    return training(wildcards.run).threads


def run_mem_mb(wildcards, attempt):
    """Memory of a run in MB; half as much again with every attempt."""
    return grown_memory(training(wildcards.run).mem_mb, attempt)


def run_minutes(wildcards, attempt):
    """Time limit of a run in minutes; once more with every attempt."""
    minutes = training(wildcards.run).runtime
    return grown_runtime(minutes, attempt, PROJECT.scale(SCALE).runtime)


def run_gpu(wildcards):
    """GPUs of a run, over all its nodes."""
    return training(wildcards.run).gpu


def run_nodes(wildcards):
    """Nodes of a run."""
    return training(wildcards.run).nodes


def run_mpi(wildcards):
    """How a run over several nodes starts a process on each, so that the executor leaves that to it; None on one node."""
    return "srun" if run_nodes(wildcards) > 1 else None


def run_attempt(wildcards, attempt):
    """How often the job was submitted: one that comes back after a kill trains smaller micro-batches."""
    return attempt


@functools.cache
def evaluation(run):
    """Resources for scoring a run."""
    return evaluation_resources(PROJECT, PLAN, run)


def evaluate_threads(wildcards):
    """Processor cores for scoring a run."""
    return evaluation(wildcards.run).threads


def evaluate_mem_mb(wildcards, attempt):
    """Memory for scoring a run in MB; half as much again with every attempt."""
    return grown_memory(evaluation(wildcards.run).mem_mb, attempt)


def evaluate_minutes(wildcards, attempt):
    """Time limit for scoring a run in minutes; once more with every attempt."""
    minutes = evaluation(wildcards.run).runtime
    return grown_runtime(minutes, attempt, PROJECT.scale(SCALE).runtime)


def evaluate_gpu(wildcards):
    """The GPU that a run is scored on, if it was trained on any."""
    return evaluation(wildcards.run).gpu


def prepare_mem_mb(wildcards, attempt):
    """Memory for tokenizing in MB; half as much again with every attempt."""
    return grown_memory(PREPARATION.mem_mb, attempt)


def structural_mem_mb(wildcards, attempt):
    """Memory for measuring models without weights in MB; half as much again with every attempt."""
    return grown_memory(STRUCTURAL.mem_mb, attempt)
