"""`replica plan --profile`: partitions are chosen as the executor does, and what exceeds a profile's limits is said."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace

import pytest
import yaml

from replica.config import load_project
from replica.errors import ConfigError
from replica.plan import Resources, build_plan
from replica.plan.planned_jobs import planned_jobs
from replica.plan.profiles import Profile, fit, partition_of, read_profile

from .test_plan_resources import _asked


@pytest.fixture(scope="module")
def paper_scale(root):
    project = load_project(root, quick=False)
    return project, build_plan(project, "paper")


def _with_limits(root, folder, name="slurm", **limits):
    """A profile with other limits for all its partitions."""
    shutil.copytree(root / "workflow" / "profiles" / name, folder / "workflow" / "profiles" / name)
    path = folder / "workflow" / "profiles" / name / "partitions.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    for partition in content["partitions"].values():
        partition.update({key: value for key, value in limits.items() if key in partition})
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return read_profile(folder, name)


@pytest.mark.parametrize("name", ["slurm", "slurm-gres"])
def test_partitions_by_need(root, name):
    profile = read_profile(root, name)
    job = Resources(threads=8, mem_mb=16000, runtime=60, nodes=1)
    assert partition_of(profile, replace(job, gpu=0, runtime=60)) == "cpu"
    assert partition_of(profile, replace(job, gpu=1, runtime=60)) == "gpu"
    assert partition_of(profile, replace(job, gpu=8, runtime=4000)) == "long"
    assert partition_of(profile, replace(job, gpu=9, runtime=60)) is None


#: What no partition of the shipped profiles holds: eleven days of eight GPUs.
LARGEST = "pretrain-llama-7b-"


@pytest.mark.parametrize("name", ["slurm", "slurm-gres"])
def test_shipped_profiles_hold_the_paper_scale_but_for_the_memory_of_a_gpu(root, paper_scale, name):
    found = fit(*paper_scale, read_profile(root, name))
    beyond = [line for line in found.warnings if "GB of a GPU" not in line]
    assert all(line.startswith(f"train {LARGEST}") and "fits no partition" in line for line in beyond), beyond
    assert sum(jobs for jobs, _ in found.partitions.values()) > 3000


TRAINING = ("train", "targets", "compress", "adapt", "evaluate")


def test_every_job_of_the_paper_scale_has_gpu_memory_and_time(paper_scale):
    """That these are the jobs that Snakemake submits: tests/workflow/test_profiles.py."""
    project, plan = paper_scale
    jobs = planned_jobs(project, plan)
    assert {run.id for run in plan.runs.values() if run.seeds} <= {job.subject for job in jobs}
    assert set(project.papers) <= {job.subject for job in jobs if job.rule == "measure_structure"}
    for job in jobs:
        resources = job.resources
        assert resources.threads >= 1 and resources.mem_mb >= 1000 and resources.runtime >= 10, job.name
        assert resources.gpu >= 1 if job.rule in TRAINING else resources.gpu == 0, job.name


@pytest.mark.parametrize("name", ["slurm", "slurm-gres"])
@pytest.mark.parametrize(
    "limits", [{}, {"max_runtime": 300}, {"max_mem_mb": 30000}, {"max_gpu": 1}, {"max_threads": 1}]
)
def test_every_job_has_a_partition_or_a_warning(root, tmp_path, paper_scale, limits, name):
    profile = _with_limits(root, tmp_path, name, **limits)
    found = fit(*paper_scale, profile)
    jobs = planned_jobs(*paper_scale)
    without = {(job.rule, job.subject) for job in jobs if partition_of(profile, job.resources) is None}
    said = [re.search(r"^\w+ \S+(?: and (\d+) more)?: fits no partition", line) for line in found.warnings]
    assert sum(1 + int(match.group(1) or 0) for match in said if match) == len(without)
    assert any(not run.startswith(LARGEST) for _, run in without) == bool(limits)


@pytest.mark.parametrize(
    "limits, said",
    [
        ({"max_runtime": 1000}, r"1\d{3} minutes \(at most 1000\)"),
        ({"max_mem_mb": 30000}, r"65500 MB \(at most 30000\)"),
        ({"max_gpu": 4}, r"8 GPUs \(at most 4\)"),
    ],
)
def test_what_exceeds_a_partition_is_said_with_the_limit(root, tmp_path, paper_scale, limits, said):
    profile = _with_limits(root, tmp_path, **limits)
    text = "\n".join(fit(*paper_scale, profile).warnings)
    assert re.search(said, text), text


def test_a_gpu_that_is_too_small_is_said(tmp_path):
    project, plan, run = _asked(tmp_path, 1, train={"steps": 1, "batch_size": 4096})
    [line] = fit(project, plan, Profile("here", gpu_mem_mb=1000)).warnings
    assert line.startswith(f"adapt {run}") and "the profile has 1" in line
    assert fit(project, plan, Profile("here", gpu_mem_mb=10**6)).warnings == []


def test_a_workstation_says_what_runs_on_fewer_gpus(root, paper_scale):
    found = fit(*paper_scale, read_profile(root, "workstation"))
    assert found.partitions == {}
    assert any("planned for 8 GPUs, the profile has 1" in line for line in found.warnings)


def test_unknown_profile_and_unreadable_partitions_are_one_line(root, tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'slurm'"):
        read_profile(root, "slurmm")
    shutil.copytree(root / "workflow" / "profiles" / "slurm", tmp_path / "mine")
    (tmp_path / "mine" / "partitions.yaml").write_text("partitions: {gpu: {max_gpus: 1}}", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"partitions\.yaml: .*max_gpus"):
        read_profile(tmp_path, "mine")
