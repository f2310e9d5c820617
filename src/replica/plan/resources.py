"""The resources of jobs, estimated from specifications before anything starts: compute, time, memory, disk. Imports no torch.

Estimates count 6 FLOPs per trained weight and token (2 forward, 4 backward), those of the vocabulary's logits where they are computed,
and 2 per teacher weight and token; memory is the closed form of `replica.plan.memory_estimate` with its margin. They are for
planning; a finished run's time and memory are in its manifest and benchmark file.
"""

from __future__ import annotations

import math
from dataclasses import replace

from replica.config.project import Project
from replica.config.schema import Train
from replica.config.settings import Scale
from replica.config.task_schema import Task
from replica.methods import registry
from replica.plan.memory_estimate import (
    DEVICE_BASE,
    FLOAT,
    MARGIN,
    PROCESS_BASE,
    Shape,
    inference_bytes,
    shape_of,
    training_bytes,
)
from replica.plan.plan import Plan, Resources, Run
from replica.tasks import kinds

#: Rows of a training split whose size is not pinned.
UNKNOWN_ROWS = 100_000
#: Tokens per example where sentences are shorter than the limit: the mean of the limit and this share of it.
FILLED = 0.5
#: FLOPs per second assumed: of one processor core, and of one graphics processor in mixed precision.
CORE_FLOPS, GPU_FLOPS = 4e10, 4e13
#: Seconds a process needs to import its libraries and load its data.
START_SECONDS = 8.0
#: Rows that are scored at a time.
EVALUATION_BATCH = 64
#: Least minutes a job asks for, on a processor and on a GPU, where a first start takes longer.
LEAST_MINUTES = {False: 10, True: 60}


def rows_of(project: Project, task: Task, split: str | None) -> int:
    """Return how many rows a split of a task's data set holds, as far as the registry knows."""
    pinned = project.dataset(task.dataset).splits.get(split) if split else None
    return pinned.rows if pinned else UNKNOWN_ROWS


def training_rows(project: Project, run: Run) -> int:
    """Return how many examples the run's training split holds (of all its tasks), as far as the registry knows."""
    train, counts = run.spec.train or {}, []
    for name in run.tasks:
        task = project.task(name)
        rows = rows_of(project, task, task.splits.train)
        drawn = train.get("train_rows") or train.get("rows_per_class", 0) * task.class_count
        counts.append(min(rows, task.rows.get("train", rows), drawn or rows))
    return sum(counts)


def row_length(task: Task, cut: int | None = None) -> int:
    """Return how many pieces a row has at most: a completion's input and target each have the task's length, or `cut`."""
    return kinds.of(task).row_length(cut or task.max_length)


def training_resources(project: Project, plan: Plan, run_id: str) -> Resources:
    """Return the resources for training a run, or for storing its teacher's signals."""
    if run_id in plan.estimates:
        return plan.estimates[run_id]
    run, scale = plan.run(run_id), project.scale(plan.scale)
    shape = shape_of(project.model(run.spec.root))
    task = project.task(run.spec.task.name)
    settings = run.spec.train or {}
    rows, length = training_rows(project, run), row_length(task, settings.get("max_length"))
    teacher = _teacher(project, plan, run)
    gpus = min(1, run.gpus) if run.stage == "targets" else run.gpus  # one process stores a teacher's signals
    nodes = max(1, math.ceil(gpus / scale.gpus_per_node))
    if run.stage == "targets":
        batch, steps, tokens = EVALUATION_BATCH, 0, FILLED * length * rows
        flops, peak = 2.0 * shape.blocks * tokens, inference_bytes(shape, batch, length)
    else:
        train = Train(**settings)
        batch = train.batch_size / train.accumulate / max(1, gpus)
        steps = train.steps or max(1, round(train.epochs * rows / train.batch_size))
        tokens = FILLED * length * steps * train.batch_size
        logits = (kinds.of(task).logits_share(task) or 0) * shape.vocabulary * shape.hidden
        flops = (6.0 * (shape.blocks + logits) + 2.0 * (teacher.blocks if teacher else 0)) * tokens
        peak = training_bytes(
            shape,
            batch,
            length,
            masked_share=kinds.of(task).logits_share(task),
            teacher=teacher,
            extra_tensors=sum(name in _KEEPING for name in _families(run)),
            processes=max(1, gpus),
        )
    speed = GPU_FLOPS * gpus if gpus else CORE_FLOPS * scale.threads
    seconds = START_SECONDS + flops / speed
    weights = shape.blocks + shape.embeddings
    on_node = math.ceil(gpus / nodes)
    plan.estimates[run_id] = Resources(
        threads=scale.threads * max(1, on_node),
        mem_mb=_host_memory(scale, weights, peak, on_node),
        runtime=_runtime(scale, (1.5 if gpus else 3) * seconds / 60, gpus),
        gpu=gpus,
        nodes=nodes,
        seconds=seconds,
        gpu_mem_mb=math.ceil((MARGIN * peak + DEVICE_BASE) / 1e6),
        steps=steps,
        flops=flops,
        disk_mb=weights * 4 / 1e6,
    )
    return plan.estimates[run_id]


def evaluation_resources(project: Project, plan: Plan, run_id: str) -> Resources:
    """Return the resources for scoring a run, on at most one GPU."""
    run, scale = plan.run(run_id), project.scale(plan.scale)
    shape = shape_of(project.model(run.spec.root))
    gpus = min(1, run.gpus)
    seconds, peak = START_SECONDS, 0.0
    for name in run.evaluate or [run.spec.task.name]:
        task = project.task(name)
        split = task.splits.report or (task.splits.select if isinstance(task.splits.select, str) else task.splits.train)
        tokens = FILLED * row_length(task) * rows_of(project, task, split)
        seconds += 2.0 * shape.blocks * tokens / (GPU_FLOPS if gpus else CORE_FLOPS * scale.threads)
        peak = max(peak, inference_bytes(shape, EVALUATION_BATCH, row_length(task)))
    weights = shape.blocks + shape.embeddings
    return Resources(
        threads=scale.threads,
        mem_mb=_host_memory(scale, weights, peak, gpus),
        runtime=_runtime(scale, 3 * seconds / 60, gpus),
        gpu=gpus,
        seconds=seconds,
    )


def measurement_resources(project: Project, plan: Plan, run_id: str) -> Resources:
    """Return the resources for measuring the cost of a finished run, which is done on the processor."""
    return replace(evaluation_resources(project, plan, run_id), gpu=0, seconds=START_SECONDS)


def preparation_resources(scale: Scale) -> Resources:
    """Return the resources for tokenizing a task's data."""
    return Resources(1, max(2000, scale.mem_mb), min(240, scale.runtime), seconds=START_SECONDS)


def structural_resources() -> Resources:
    """Return the resources for measuring a paper's models without weights."""
    return Resources(threads=1, mem_mb=4000, runtime=20, seconds=START_SECONDS)


def grown_memory(mem_mb: int, attempt: int) -> int:
    """Return the memory of a job's attempt, in MB: half of the first request more with every attempt."""
    return int(mem_mb * (1 + 0.5 * (attempt - 1)))


def grown_runtime(minutes: int, attempt: int, limit: int) -> int:
    """Return the minutes of a job's attempt: as many again with every attempt, up to the scale's limit."""
    return max(minutes, min(minutes * attempt, limit))


#: Families of methods that keep about one value for each weight in addition to it: masks, scores, start values.
_KEEPING = ("pruning", "quantization", "binarization")


def _families(run: Run) -> list[str]:
    return [registry.entry(name).family for name in run.spec.method_names]


def _host_memory(scale: Scale, weights: int, peak: float, gpus: int) -> int:
    """Return a job's memory in MB: on a processor all of training's, with GPUs a process, its start weights and buffers for each."""
    own = PROCESS_BASE + MARGIN * peak if not gpus else gpus * (2 * PROCESS_BASE + 4 * FLOAT * weights)
    return max(scale.mem_mb, 500 * math.ceil(own / 5e8))  # whole steps, so that like jobs share an array


def _runtime(scale: Scale, minutes: float, gpus: int) -> int:
    least = LEAST_MINUTES[bool(gpus)]
    return max(least, math.ceil(minutes)) if gpus else min(scale.runtime, max(least, int(minutes)))


def _teacher(project: Project, plan: Plan, run: Run) -> Shape | None:
    """Return the sizes of the teacher that is loaded with the student; None where its signals are stored or there is none."""
    if "teacher" in run.parents:
        return shape_of(project.model(plan.runs[run.parents["teacher"]].spec.root))
    return shape_of(project.model(run.spec.teacher.name)) if run.spec.teacher else None


def longest_path(project: Project, plan: Plan) -> tuple[float, list[str]]:
    """Return the seconds of the longest chain of requested runs and the chain."""
    memo: dict[str, tuple[float, list[str]]] = {}

    def down(run_id: str) -> tuple[float, list[str]]:
        if run_id not in memo:
            run = plan.runs[run_id]
            before = [down(parent) for parent in sorted({*run.parents.values(), *run.candidates})]
            seconds, path = max(before, default=(0.0, []), key=lambda item: item[0])
            memo[run_id] = (seconds + training_resources(project, plan, run_id).seconds, [*path, run_id])
        return memo[run_id]

    return max((down(run.id) for run in plan.runs.values() if run.seeds), default=(0.0, []), key=lambda item: item[0])


def widest_point(project: Project, plan: Plan) -> dict[str, int]:
    """Return how many training jobs, and how many GPUs, are busy at most when every job starts as soon as its parents are done.

    `jobs` and `gpus` are the two largest numbers; they need not fall on the same moment.
    """
    ends: dict[str, float] = {}

    def end(run_id: str) -> float:
        if run_id not in ends:
            run = plan.runs[run_id]
            start = max((end(parent) for parent in {*run.parents.values(), *run.candidates}), default=0.0)
            ends[run_id] = start + training_resources(project, plan, run_id).seconds
        return ends[run_id]

    events = []
    for run in plan.runs.values():
        if run.seeds:
            cost, done = training_resources(project, plan, run.id), end(run.id)
            count, gpus = len(run.seeds), len(run.seeds) * cost.gpu
            events += [(done - cost.seconds, 1, count, gpus), (done, 0, -count, -gpus)]
    jobs = gpus = most_jobs = most_gpus = 0
    for _, _, count, more in sorted(events):  # at one moment, ends come before starts
        jobs, gpus = jobs + count, gpus + more
        most_jobs, most_gpus = max(most_jobs, jobs), max(most_gpus, gpus)
    return {"jobs": most_jobs, "gpus": most_gpus}
