"""One run of the plan, from its parents' weights to its own: load, train, finalize, store, record."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from replica import __version__, models, tasks
from replica.assets import manifest
from replica.config.project import Project
from replica.config.schema import Train
from replica.config.task_schema import Task
from replica.errors import INTERRUPTED, ConfigError, TrainingError
from replica.files import atomic_folder, finite, remove_leftovers, sha256_file, write_text
from replica.methods import registry
from replica.methods.base import Context, Method
from replica.methods.stored import load_model, save_model
from replica.paths import Layout
from replica.plan.runs import Plan, Run
from replica.tasks import kinds
from replica.training import distributed, failures, out_of_memory, process
from replica.training.cost import forward_flops
from replica.training.data import sources, training_data
from replica.training.evaluate import select_scores
from replica.training.interruption import Interruption
from replica.training.loop import Loop, total_steps
from replica.training.micro_batches import most_parts
from replica.training.precision import choose
from replica.training.selection import choose_candidate

#: Sentences that a teacher reads at once where its signals are stored.
SIGNAL_BATCH = 64


def parent_folder(layout: Layout, plan: Plan, run: Run, role: str, seed: int) -> Path:
    """Return the folder of the parent of a role; AssetError where a file of it is missing or has another sha256."""
    parent = run.parents[role]
    folder = layout.run(plan.scale, parent, plan.parent_seed(parent, seed))
    if not (folder / manifest.NAME).exists():
        raise TrainingError(f"{folder / manifest.NAME}: missing; make run {parent} first")
    manifest.verify(folder)
    return folder


def own_methods(run: Run) -> list[tuple[registry.MethodEntry, Method]]:
    """Instantiate the methods of a run's specification, in order."""
    found = []
    for item in run.spec.get("methods", []):
        reference = {key: value for key, value in item.items() if key != "version"}
        entry, config = registry.parse(reference)
        found.append((entry, entry.create(config)))
    return found


def initial_model(
    project: Project, layout: Layout, plan: Plan, run: Run, seed: int, head: str, labels: int, methods
) -> Any:
    """Return the model a run starts from and the structure that its stored form has already."""
    by_name = {entry.name: method for entry, method in methods}
    if "init" in run.parents:
        folder = parent_folder(layout, plan, run, "init", seed)
        return load_model(folder, head=head, labels=labels, seed=seed, methods=by_name)
    name = run.spec["model"]["name"]
    entry = project.model(name)
    if run.spec["model"]["weights"] == "random":
        return models.build(entry, head=head, labels=labels, seed=seed), []
    if entry.weights_of is not None:
        source = project.model(entry.weights_of)
        return models.grown(entry, source, layout.model(entry.weights_of), head=head, labels=labels, seed=seed), []
    return models.from_asset(entry, layout.model(name), head=head, labels=labels, seed=seed), []


def load_teacher(project: Project, layout: Layout, plan: Plan, run: Run, seed: int, task: Task) -> Any:
    """Return the frozen teacher in eval mode, or None."""
    if "teacher" in run.parents:
        teacher, _ = load_model(parent_folder(layout, plan, run, "teacher", seed))
    elif "teacher" in run.spec:
        name = run.spec["teacher"]["name"]
        entry = project.model(name)
        head = kinds.of(task).teacher_head(task)
        if run.spec["teacher"]["weights"] == "random":
            teacher = models.build(entry, head=head, seed=0)
        else:
            teacher = models.from_asset(entry, layout.model(name), head=head, labels=2, seed=0)
    else:
        return None
    teacher.eval().requires_grad_(False)
    return teacher


@contextmanager
def at_work(project: Project, plan: Plan, run_id: str, seed: int, layout: Layout, attempt: int) -> Iterator[Path]:
    """Give the state folder of one seed of a run, recorded as worked on; a failure that would come again is remembered there.

    Raises RepeatedError where this very call failed so before.
    """
    state = layout.resume(plan.scale, run_id, seed)
    mark = failures.fingerprint(project, plan, run_id, seed, layout, distributed.processes())
    failures.refuse(state, mark)
    if distributed.first():
        remove_leftovers(layout.run(plan.scale, run_id, seed))
    with failures.remembered(state, mark, run_id):
        if distributed.first():
            with process.recorded(state, attempt):
                yield state
        else:
            yield state


def train_run(project: Project, plan: Plan, run_id: str, seed: int, layout: Layout, attempt: int = 1) -> int:
    """Train one seed of a run and store model, history and manifest; returns the process's exit status.

    Status 0: stored. Status INTERRUPTED: stopped by a signal after a checkpoint; the same call goes on from there. `attempt` counts
    the submissions of a job: when it has grown since a process was killed without notice, micro-batches become smaller. Several
    processes that call this with the variables of torchrun train one model; the first alone writes.
    """
    state = layout.resume(plan.scale, run_id, seed)
    run = plan.run(run_id)
    with Interruption() as interruption:
        distributed.start()
        train = Train(**run.spec["train"])
        most = most_parts(train.batch_size, train.accumulate, distributed.processes())
        parts = distributed.from_first(out_of_memory.parts(state, attempt, most) if distributed.first() else None)
        with (
            at_work(project, plan, run_id, seed, layout, attempt),
            out_of_memory.watched(state, parts, most, attempt),
        ):
            return _train(project, plan, run, seed, layout, attempt, parts, interruption)


def _train(
    project: Project,
    plan: Plan,
    run: Run,
    seed: int,
    layout: Layout,
    attempt: int,
    parts: int,
    interruption: Interruption,
) -> int:
    trained = [project.task(name) for name in run.tasks]
    task = trained[0]
    out, state = layout.run(plan.scale, run.id, seed), layout.resume(plan.scale, run.id, seed)
    selection = None
    if run.candidates:
        selection = distributed.from_first(
            choose_candidate(layout, plan, run, *trained) if distributed.first() else None
        )
    train = Train(**{**run.spec["train"], **(selection["chosen"] if selection else {})})
    is_candidate = any(run.id in other.candidates for other in plan.runs.values())
    started = time.time()

    import torch
    from transformers import set_seed

    set_seed(seed)
    head, labels = kinds.of(task).head(task), kinds.of(task).label_count(task)
    methods = own_methods(run)
    model, structure = initial_model(project, layout, plan, run, seed, head, labels, methods)
    split, whole, collate = training_data(layout, run, trained, train, seed, model, [method for _, method in methods])
    steps = total_steps(train, split.sizes)
    warmup = train.warmup_steps or round(train.warmup_share * steps)
    context = Context(
        seed=seed,
        total_steps=steps,
        head=head,
        teacher=load_teacher(project, layout, plan, run, seed, task),
        stored=_stored(layout, plan, run, seed),
        restored=frozenset(item["name"] for item in structure),
        learning_rate=train.learning_rate,
        warmup_steps=warmup,
        weight_decay=train.weight_decay,
        batch_size=train.batch_size,
        **sources(project, layout, run, seed, model, whole, collate),
    )
    for _, method in methods:
        method.prepare(model, context)
    counts = _counts(model)
    loop = Loop(
        model,
        train,
        split=split,
        collate=collate,
        context=context,
        methods=[(entry.changes, method) for entry, method in methods],
        objective=lambda model, batch, context: tasks.task_loss(task, model, batch),
        state_folder=state,
        parts=parts,
        interruption=interruption,
    )
    outcome = loop.fit()
    distributed.end()
    if not outcome.finished:
        distributed.say(f"stopped at step {outcome.step} of {steps}; run the same command to go on")
        if distributed.first():
            process.stopped(state, attempt, outcome.step)
        return INTERRUPTED
    if not distributed.first():  # what follows is done by one process
        return 0
    model = loop.accelerator.unwrap_model(loop.model).cpu()
    reported = _reported(model, methods, context)
    for _, method in methods:
        model = method.finalize(model)
    model.eval()
    scored = None
    if is_candidate:
        prepared = [layout.prepared(name) for name in run.trained_data]
        metrics = select_scores(model, trained, prepared, batch_size=max(1, 64 // parts))
        scored = {name: finite(value) for name, value in metrics.items()}
    kept = [
        {"name": e.name, **m.config.model_dump(exclude_defaults=True, mode="json")} for e, m in methods if e.persistent
    ]
    structure = [item for item in structure if item["name"] not in {k["name"] for k in kept}] + kept
    facts = {
        "train": train.model_dump(exclude_defaults=True, mode="json"),
        "steps": steps,
        "rows": len(split),
        "counts": counts,
        "expected": _expected(model, methods),
        "selection": scored,
        "tuning": selection,
        **({"reported": reported} if reported else {}),
        "memory": outcome.memory,
        "flops": forward_flops(model, min(train.max_length or task.max_length, task.max_length)),
        "precision": outcome.precision,
        "seconds": round(outcome.seconds, 2),
        "wall_seconds": round(time.time() - started, 2),
        "threads": torch.get_num_threads(),
        "processes": distributed.processes(),
        "parts": parts,
    }
    with atomic_folder(out) as folder:
        save_model(model, folder, head=head, labels=labels, structure=structure)
        write_text(folder / "history.jsonl", _history(outcome.history))
        write_manifest(folder, plan, run, seed, layout, facts)
    shutil.rmtree(state, ignore_errors=True)
    print(f"{run.id} seed {seed}: {steps} steps in {outcome.seconds:.1f} s, stored in {out}", file=sys.stderr)
    return 0


def _stored(layout: Layout, plan: Plan, run: Run, seed: int) -> Any:
    if "targets" not in run.parents:
        return None
    from replica.training.signals import StoredSignals

    return StoredSignals(parent_folder(layout, plan, run, "targets", seed) / "signals.safetensors")


def _counts(model: Any) -> dict[str, int]:
    seen: set[int] = set()
    total = trainable = 0
    for parameter in model.parameters():
        if id(parameter) not in seen:
            seen.add(id(parameter))
            total += parameter.numel()
            trainable += parameter.numel() if parameter.requires_grad else 0
    return {"total_parameters": total, "trainable_parameters": trainable}


def _expected(model: Any, methods: list[tuple[Any, Method]]) -> dict[str, dict[str, float]]:
    return {entry.name: found for entry, method in methods if (found := method.expected(model))}


def _reported(model: Any, methods: list[tuple[Any, Method]], context: Context) -> dict[str, dict[str, Any]]:
    found = {entry.name: method.reported(model, context) for entry, method in methods}
    return {
        name: {key: finite(value) if isinstance(value, float) else value for key, value in values.items()}
        for name, values in found.items()
        if values
    }


def _history(history: list[dict[str, Any]]) -> str:
    import json

    lines = [{key: finite(value) if isinstance(value, float) else value for key, value in e.items()} for e in history]
    return "".join(json.dumps(line, allow_nan=False, sort_keys=True) + "\n" for line in lines)


def write_manifest(folder: Path, plan: Plan, run: Run, seed: int, layout: Layout, facts: dict[str, Any]) -> None:
    """Write a run's manifest: hashes of its files, its specification and parents, versions, hardware and time."""
    parents = {}
    for role, parent in run.parents.items():
        parent_seed = plan.parent_seed(parent, seed)
        source = layout.run(plan.scale, parent, parent_seed) / "manifest.json"
        parents[role] = {"run": parent, "seed": parent_seed, "manifest": sha256_file(source)}
    manifest.write(
        folder,
        run=run.id,
        seed=seed,
        scale=plan.scale,
        spec=run.spec,
        parents=parents,
        candidates=run.candidates,
        **facts,
        versions=_versions(),
        hardware=_hardware(),
        finished=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    names = ("torch", "transformers", "tokenizers", "numpy")
    return {"replica": __version__, "python": platform.python_version(), **{name: version(name) for name in names}}


def _hardware() -> dict[str, Any]:
    import torch

    found = {"host": platform.node(), "processor": _processor(), "cores": os.cpu_count()}
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
        found["gpus"] = torch.cuda.device_count()
    return found


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def make_targets(project: Project, plan: Plan, run_id: str, seed: int, layout: Layout, attempt: int = 1) -> int:
    """Run a teacher once over a task's training split and store the signals that the run's method asks for."""
    state = layout.resume(plan.scale, run_id, seed)
    parts = out_of_memory.parts(state, attempt, SIGNAL_BATCH)
    with at_work(project, plan, run_id, seed, layout, attempt):
        size = max(1, SIGNAL_BATCH // parts)
        with out_of_memory.watched(state, parts, SIGNAL_BATCH, attempt):
            _store_signals(project, plan, run_id, seed, layout, size)
    shutil.rmtree(state, ignore_errors=True)
    return 0


def _store_signals(project: Project, plan: Plan, run_id: str, seed: int, layout: Layout, size: int) -> None:
    from replica.training import signals

    run = plan.run(run_id)
    task = project.task(run.spec["task"][0])
    started = time.time()
    import torch

    methods = own_methods(run)
    asking = [method for _, method in methods if method.signal_axes]
    if len(asking) != 1:
        raise ConfigError(f"run {run_id}: stage `targets` needs one method with signals to store, got {len(asking)}")
    teacher = load_teacher(project, layout, plan, run, seed, task)
    context = Context(seed=seed, teacher=teacher, head=kinds.of(task).head(task))
    split = tasks.PreparedSplit.read(layout.prepared(run.data), "train")
    sampler = tasks.LengthBucketSampler(split.lengths, size, 0)
    collate = tasks.collate(task, split.facts, seed=seed, model=teacher)

    def batches():
        done = 0
        for rows in sampler:
            batch = {key: value.to(device) for key, value in collate([split[row] for row in rows]).items()}
            with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
                found = context.signals(asking[0], batch)
            yield batch, found
            done += len(rows)
            if done % 6400 < len(rows):
                print(f"{done}/{len(split)} examples", file=sys.stderr, flush=True)

    device = "cuda" if torch.cuda.is_available() else "cpu"
    precision = choose("auto")
    teacher.to(device)
    out = layout.run(plan.scale, run_id, seed)
    with atomic_folder(out) as folder:
        stored = signals.store(folder / "signals.safetensors", asking[0].signal_axes, batches())
        facts = {
            **stored,
            "precision": precision,
            "seconds": round(time.time() - started, 2),
            "threads": torch.get_num_threads(),
        }
        write_manifest(folder, plan, run, seed, layout, facts)


__all__ = ["make_targets", "train_run", "write_manifest"]
