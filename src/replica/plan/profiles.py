"""A profile's limits, and the jobs of a plan that exceed them. Imports no torch."""

from __future__ import annotations

import functools
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from replica.config.project import Project
from replica.config.yaml_files import read_yaml
from replica.errors import ConfigError, nearest
from replica.plan.plan import Plan, Resources
from replica.plan.planned_jobs import planned_jobs

#: Where a checkout keeps its profiles.
FOLDER = Path("workflow") / "profiles"
#: Executors whose jobs go to partitions, and the prefixes of their keys.
PREFIXES = ("slurm-", "replica-slurm-")


@dataclass
class Profile:
    """A profile's machines: partitions of a cluster; memory in MB of a GPU; GPUs and memory in MB of one machine."""

    name: str
    partitions: list[Any] = field(default_factory=list)
    gpu_mem_mb: int | None = None
    gpus: int | None = None
    mem_mb: int | None = None


@dataclass
class Fit:
    """A plan's jobs on a profile: partition → [jobs, GPU hours], and a warning for each kind of job that exceeds a limit."""

    partitions: dict[str, list[float]]
    warnings: list[str]


def read_profile(root: Path | str, name: str) -> Profile:
    """Read the profile that `snakemake --profile NAME` takes in a checkout; ConfigError where none is, or its limits cannot be read."""
    root = Path(root)
    for folder in (root / name, root / FOLDER / name):
        path = folder if folder.suffix == ".yaml" else folder / "config.yaml"
        if path.is_file():
            break
    else:
        known = [item.parent.name for item in sorted((root / FOLDER).glob("[!.]*/config.yaml"))]
        raise ConfigError(f"--profile {name}: no such profile in {root / FOLDER}{nearest(name, known)}")
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected a mapping of Snakemake's options to values")
    settings: dict[str, Any] = {}
    for prefix in PREFIXES:
        settings.update({key.removeprefix(prefix): value for key, value in content.items() if key.startswith(prefix)})
    limits = content.get("resources") or {}
    partitions = _partitions(path.parent / settings["partition-config"]) if "partition-config" in settings else []
    return Profile(path.parent.name, partitions, settings.get("gpu-mem-mb"), limits.get("gpu"), limits.get("mem_mb"))


def _partitions(path: Path) -> list[Any]:
    """Read partitions as the executor does, so that both mean the same."""
    from snakemake_executor_plugin_slurm.partitions import read_partition_file
    from snakemake_interface_common.exceptions import WorkflowError

    try:
        return read_partition_file(path)
    except (WorkflowError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"{path}: {error}") from None


def partition_of(profile: Profile, job: Resources) -> str | None:
    """Return the partition that the executor takes for a job, or None where none takes it."""
    resources = {key: getattr(job, key) for key in ("mem_mb", "runtime", "gpu", "nodes") if getattr(job, key)}
    request = SimpleNamespace(threads=job.threads, resources=resources)
    scored = [(part.score_job_fit(request), part.name) for part in profile.partitions]
    fitting = [item for item in scored if item[0] is not None]
    return max(fitting, key=lambda item: item[0])[1] if fitting else None


def fit(project: Project, plan: Plan, profile: Profile) -> Fit:
    """Place every job of a plan on a profile's partitions; warns of each request above the profile's limits."""
    placed: dict[str, list[float]] = defaultdict(lambda: [0, 0.0])
    problems: dict[str, dict[str, None]] = defaultdict(dict)
    partitions = functools.cache(functools.partial(partition_of, profile))
    for job in planned_jobs(project, plan):
        resources, name = job.resources, f"{job.rule} {job.subject}"
        if profile.partitions:
            partition = partitions(resources)
            if partition is None:
                problems[_nearest_miss(profile, resources)][name] = None
            else:
                placed[partition][0] += 1
                placed[partition][1] += resources.gpu * resources.seconds / 3600
        for problem in _machine(profile, resources):
            problems[problem][name] = None
        if profile.gpu_mem_mb and resources.gpu and resources.gpu_mem_mb > profile.gpu_mem_mb:
            problems[
                f"about {resources.gpu_mem_mb / 1000:.0f} GB of a GPU in float32, the profile has {profile.gpu_mem_mb / 1000:.0f}: "
                "where it does not fit, the next attempt halves the micro-batch"
            ][name] = None
    warnings = [
        f"{next(iter(names))}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {problem}"
        for problem, names in sorted(problems.items())
    ]
    return Fit(dict(placed), warnings)


#: Resource: the partition's limit on it, and its unit.
_LIMITS = {
    "runtime": ("max_runtime", "minutes"),
    "mem_mb": ("max_mem_mb", "MB"),
    "threads": ("max_threads", "threads"),
    "gpu": ("max_gpu", "GPUs"),
    "nodes": ("max_nodes", "nodes"),
}


def _nearest_miss(profile: Profile, job: Resources) -> str:
    """Name the requests of a job that exceed the limits of the partition nearest to it."""
    misses = []
    for part in profile.partitions:
        over = [
            f"{getattr(job, key)} {unit} (at most {getattr(part.limits, limit):g})"
            for key, (limit, unit) in _LIMITS.items()
            if (getattr(job, key) or 0) > getattr(part.limits, limit)
        ]
        misses.append((len(over), f"asks for {', '.join(over)} of partition {part.name}"))
    return f"fits no partition; it {min(misses)[1]}"


def _machine(profile: Profile, job: Resources) -> list[str]:
    """Name the requests of a job that exceed a single machine's GPUs and memory; Snakemake reduces them to those limits."""
    problems = []
    if profile.gpus is not None and job.gpu > profile.gpus:
        problems.append(f"planned for {job.gpu} GPUs, the profile has {profile.gpus}: runs on those, and longer")
    if profile.mem_mb is not None and job.mem_mb > profile.mem_mb:
        problems.append(f"asks for {job.mem_mb} MB of memory, the profile has {profile.mem_mb}")
    return problems
