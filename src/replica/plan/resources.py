"""What a run will need, estimated from its specification before anything starts: compute, time, memory, disk.

Estimates count 6 FLOPs per trained weight and token (2 forward, 4 backward) and 2 per teacher weight and token; sizes come from the
registered configurations. They are for planning; what a run did need is in its manifest and benchmark file.
"""

from __future__ import annotations

from typing import Any

from replica.config.asset_schema import ModelEntry
from replica.config.project import Project
from replica.config.schema import Train
from replica.plan.runs import Plan, Run

#: Rows of a training split whose size is not pinned.
UNKNOWN_ROWS = 100_000
#: Tokens per example where sentences are shorter than the limit: the mean of the limit and this share of it.
FILLED = 0.5
#: FLOPs per second assumed: of one processor core, and of one graphics processor in mixed precision.
CORE_FLOPS, GPU_FLOPS = 4e10, 4e13
#: Seconds a process needs to import its libraries and load its data.
START_SECONDS = 8.0


def parameters(entry: ModelEntry) -> tuple[int, int]:
    """Return (weights in layers, weights in embeddings) of a registered configuration."""
    config = entry.config
    hidden = config.get("hidden_size") or config.get("d_model") or config.get("dim") or 0
    layers = config.get("num_hidden_layers") or config.get("num_layers") or config.get("n_layers") or 0
    inner = config.get("intermediate_size") or config.get("d_ff") or config.get("hidden_dim") or 4 * hidden
    blocks = layers * (4 * hidden * hidden + 2 * hidden * inner)
    if entry.architecture == "t5":
        blocks = 2 * blocks + layers * 4 * hidden * hidden
    return blocks, config.get("vocab_size", 0) * hidden


def training_rows(project: Project, run: Run) -> int:
    """Return how many examples the run's training split holds, as far as the registry knows."""
    task = project.task(run.spec["task"][0])
    pinned = project.dataset(task.dataset).splits.get(task.splits.train)
    rows = pinned.rows if pinned else UNKNOWN_ROWS
    return min(rows, run.spec.get("train", {}).get("train_rows") or rows)


def resources_of(project: Project, plan: Plan, run_id: str) -> dict[str, Any]:
    """Return threads, mem_mb, runtime (minutes), gpu, and the estimate behind them: steps, flops, seconds, disk_mb."""
    run = plan.run(run_id)
    if run.cost:
        return run.cost
    scale = project.scale(plan.scale)
    blocks, embeddings = parameters(project.model(run.spec["root"]))
    task = project.task(run.spec["task"][0])
    rows = training_rows(project, run)
    tokens_per_row = FILLED * (run.spec.get("train", {}).get("max_length") or task.max_length)
    if run.stage == "targets":
        steps, tokens, flops = 0, rows * tokens_per_row, 2.0 * blocks * rows * tokens_per_row
    else:
        train = Train(**run.spec["train"])
        steps = train.steps or max(1, round(train.epochs * rows / train.batch_size))
        tokens = steps * train.batch_size * tokens_per_row
        flops = 6.0 * blocks * tokens
        teacher = _teacher_blocks(project, plan, run)
        flops += 2.0 * teacher * tokens
    gpus = run.gpus
    speed = GPU_FLOPS * gpus if gpus else CORE_FLOPS * scale.threads
    seconds = START_SECONDS + flops / speed
    weights = blocks + embeddings
    run.cost = {
        "threads": scale.threads,
        "mem_mb": max(scale.mem_mb, int(weights * 16 / 1e6) + scale.mem_mb // 2),
        "runtime": min(scale.runtime, max(10, int(3 * seconds / 60))) if not gpus else max(60, int(1.5 * seconds / 60)),
        "gpu": gpus,
        "steps": steps,
        "flops": flops,
        "seconds": seconds,
        "disk_mb": weights * 4 / 1e6,
    }
    return run.cost


def _teacher_blocks(project: Project, plan: Plan, run: Run) -> int:
    if "teacher" in run.parents:
        return parameters(project.model(plan.runs[run.parents["teacher"]].spec["root"]))[0]
    if "teacher" in run.spec:
        return parameters(project.model(run.spec["teacher"]["name"]))[0]
    return 0


def longest_path(project: Project, plan: Plan) -> tuple[float, list[str]]:
    """Return the seconds of the longest chain of requested runs and the chain."""
    memo: dict[str, tuple[float, list[str]]] = {}

    def down(run_id: str) -> tuple[float, list[str]]:
        if run_id not in memo:
            run = plan.runs[run_id]
            before = [down(parent) for parent in {*run.parents.values(), *run.candidates}]
            seconds, path = max(before, default=(0.0, []), key=lambda item: item[0])
            memo[run_id] = (seconds + resources_of(project, plan, run_id)["seconds"], [*path, run_id])
        return memo[run_id]

    return max((down(run.id) for run in plan.runs.values() if run.seeds), default=(0.0, []), key=lambda item: item[0])
