"""A profile's limits, and what of a plan would not fit them. Imports no torch."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from replica.config.project import Project
from replica.config.yaml_files import read_yaml
from replica.errors import ConfigError, nearest
from replica.plan.resources import jobs_of, resources_of
from replica.plan.runs import Plan

#: Where a checkout keeps its profiles.
FOLDER = Path("workflow") / "profiles"
#: Executors whose jobs go to partitions, and the prefixes of their keys.
PREFIXES = ("slurm-", "replica-slurm-")


@dataclass
class Profile:
    """What a profile says of the machines: partitions by name (of a cluster), GPUs and memory of one machine, memory of a GPU."""

    name: str
    partitions: list[Any] = field(default_factory=list)
    gpu_mem_mb: int | None = None
    gpus: int | None = None
    mem_mb: int | None = None


@dataclass
class Fit:
    """How a plan's jobs fall on a profile: partition → [jobs, GPU hours], and what would not fit, one line each."""

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
        known = [item.parent.name for item in sorted((root / FOLDER).glob("*/config.yaml"))]
        raise ConfigError(f"--profile {name}: no such profile in {root / FOLDER}{nearest(name, known)}")
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected a mapping of Snakemake's options to values")
    settings: dict[str, Any] = {}
    for prefix in PREFIXES:
        settings.update({key.removeprefix(prefix): value for key, value in content.items() if key.startswith(prefix)})
    limits, found = content.get("resources") or {}, Profile(path.parent.name, gpu_mem_mb=settings.get("gpu-mem-mb"))
    found.gpus, found.mem_mb = limits.get("gpu"), limits.get("mem_mb")
    if "partition-config" in settings:
        found.partitions = _partitions(path.parent / settings["partition-config"])
    return found


def _partitions(path: Path) -> list[Any]:
    """Read partitions as the executor does, so that both mean the same."""
    from snakemake_executor_plugin_slurm.partitions import read_partition_file
    from snakemake_interface_common.exceptions import WorkflowError

    try:
        return read_partition_file(path)
    except (WorkflowError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"{path}: {error}") from None


def partition_of(profile: Profile, asked: dict[str, Any]) -> str | None:
    """Return the partition that the executor takes for a job, or None where none takes it."""
    resources = {key: asked[key] for key in ("mem_mb", "runtime", "gpu", "nodes") if asked.get(key)}
    job = SimpleNamespace(threads=asked["threads"], resources=resources)
    scored = [(part.score_job_fit(job), part.name) for part in profile.partitions]
    fitting = [item for item in scored if item[0] is not None]
    return max(fitting, key=lambda item: item[0])[1] if fitting else None


def fit(project: Project, plan: Plan, profile: Profile) -> Fit:
    """Place every job of a plan on a profile's partitions, and say what is more than the profile's limits."""
    placed: dict[str, list[float]] = defaultdict(lambda: [0, 0.0])
    problems: dict[str, list[str]] = defaultdict(list)
    for rule, name, count, asked in jobs_of(project, plan):
        if profile.partitions:
            partition = partition_of(profile, asked)
            if partition is None:
                problems[_nearest_miss(profile, asked)].append(f"{rule} {name}")
            else:
                placed[partition][0] += count
                placed[partition][1] += count * asked["gpu"] * asked.get("seconds", 0.0) / 3600
        for problem in _machine(profile, asked):
            problems[problem].append(f"{rule} {name}")
    if profile.gpu_mem_mb:
        for run in plan.runs.values():
            asked = resources_of(project, plan, run.id) if run.seeds else {"gpu": 0}
            if asked["gpu"] and asked["gpu_mem_mb"] > profile.gpu_mem_mb:
                problems[
                    f"about {asked['gpu_mem_mb'] / 1000:.0f} GB of a GPU in float32, the profile has {profile.gpu_mem_mb / 1000:.0f}: "
                    "where it does not fit, the next attempt halves the micro-batch"
                ].append(f"{'train' if run.stage in ('pretrain', 'teacher') else run.stage} {run.id}")
    warnings = [
        f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {problem}"
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


def _nearest_miss(profile: Profile, asked: dict[str, Any]) -> str:
    """Say what a job asks for that the partition nearest to it does not give."""
    misses = []
    for part in profile.partitions:
        over = [
            f"{asked[key]} {unit} (at most {getattr(part.limits, limit):g})"
            for key, (limit, unit) in _LIMITS.items()
            if asked.get(key) and asked[key] > getattr(part.limits, limit)
        ]
        misses.append((len(over), f"asks for {', '.join(over)} of partition {part.name}"))
    return f"fits no partition; it {min(misses)[1]}"


def _machine(profile: Profile, asked: dict[str, Any]) -> list[str]:
    """Say what a job asks for beyond a single machine's GPUs and memory, which Snakemake cuts to what there is."""
    found = []
    if profile.gpus is not None and asked["gpu"] > profile.gpus:
        found.append(f"planned for {asked['gpu']} GPUs, the profile has {profile.gpus}: runs on those, and longer")
    if profile.mem_mb is not None and asked["mem_mb"] > profile.mem_mb:
        found.append(f"asks for {asked['mem_mb']} MB of memory, the profile has {profile.mem_mb}")
    return found
