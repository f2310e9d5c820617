"""One run, from its parents' weights to its own: load, train, finalize, store, record."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from replica import __version__, models, tasks
from replica.assets import manifest
from replica.config.schema import Train
from replica.errors import INTERRUPTED, ConfigError, TrainingError
from replica.files import atomic_folder, check_dates, finite, remove_folder, remove_leftovers, sha256_file, write_text
from replica.methods import registry
from replica.methods.base import Context, Method
from replica.methods.stored import load_model, save_model
from replica.paths import HISTORY, MANIFEST
from replica.plan.plan import Run
from replica.plan.run_job import RunJob
from replica.seals import code_facts, code_hash
from replica.tasks import kinds
from replica.training import distributed, failures, out_of_memory, process, signals
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

Methods = list[tuple[registry.MethodEntry, Method]]


def train_run(job: RunJob, attempt: int = 1) -> int:
    """Train one seed of a run and store model, history and manifest; returns the process's exit status.

    Status 0: stored. Status INTERRUPTED: stopped by a signal after a checkpoint; the same call goes on from there. `attempt` counts
    the submissions of a job: when it has grown since a process was killed without notice, micro-batches become smaller. Several
    processes that call this with the variables of torchrun train one model; the first alone writes.
    """
    with Interruption() as interruption:
        distributed.start()
        train = job.train_settings()
        most = most_parts(train.batch_size, train.accumulate, distributed.processes())
        parts = distributed.from_first(out_of_memory.parts(job.state, attempt, most) if distributed.first() else None)
        with recorded(job, attempt), out_of_memory.watched(job.state, parts, most, attempt):
            return _train(job, attempt, parts, interruption)


def _train(job: RunJob, attempt: int, parts: int, interruption: Interruption) -> int:
    import torch
    from transformers import set_seed

    started = time.time()

    # settings, with the best of the values that were tried
    tuning = None
    if job.run.candidates:
        tuning = distributed.from_first(choose_candidate(job) if distributed.first() else None)
    train = job.train_settings(**(tuning["chosen"] if tuning else {}))
    set_seed(job.seed)

    # model, data, methods
    task = job.trained_tasks[0]
    head, labels = kinds.of(task).head(task), kinds.of(task).label_count(task)
    methods = own_methods(job.run)
    model, structure = initial_model(job, head, labels, methods)
    split, whole, collate = training_data(job, train, model, [method for _, method in methods])
    steps = total_steps(train, split.sizes)
    context = Context(
        seed=job.seed,
        total_steps=steps,
        head=head,
        teacher=load_teacher(job),
        stored=_stored_signals(job),
        restored=frozenset(item["name"] for item in structure),
        learning_rate=train.learning_rate,
        warmup_steps=train.warmup_steps or round(train.warmup_share * steps),
        weight_decay=train.weight_decay,
        batch_size=train.batch_size,
        **sources(job, model, whole, collate),
    )
    for _, method in methods:
        method.prepare(model, context)
    counts = _counts(model)

    # train
    loop = Loop(
        model,
        train,
        split=split,
        collate=collate,
        context=context,
        methods=[(entry.changes, method) for entry, method in methods],
        objective=lambda model, batch, context: tasks.task_loss(task, model, batch),
        state_folder=job.state,
        origin=origin(job, train),
        parts=parts,
        interruption=interruption,
    )
    outcome = loop.fit()
    distributed.end()
    if not outcome.finished:
        distributed.say(f"stopped at step {outcome.step} of {steps}; run the same command to go on")
        if distributed.first():
            process.stopped(job.state, attempt, outcome.step)
        return INTERRUPTED
    if not distributed.first():  # the rest is done by one process
        return 0

    # finalize, and score where another run chooses among its candidates
    model = loop.accelerator.unwrap_model(loop.model).cpu()
    reported = {entry.name: _finite(method.reported(model, context)) for entry, method in methods}
    for _, method in methods:
        model = method.finalize(model)
    model.eval()
    scores = None
    if job.is_candidate:
        scores = _finite(select_scores(model, job.trained_tasks, job.trained_folders, max(1, 64 // parts)))

    # store
    facts = {
        "train": train.model_dump(exclude_defaults=True, mode="json"),
        "steps": steps,
        "rows": len(split),
        "counts": counts,
        "expected": {entry.name: values for entry, method in methods if (values := method.expected(model))},
        "selection": scores,
        "tuning": tuning,
        "memory": outcome.memory,
        "flops": forward_flops(model, min(train.max_length or task.max_length, task.max_length)),
        "precision": outcome.precision,
        "seconds": round(outcome.seconds, 2),
        "wall_seconds": round(time.time() - started, 2),
        "threads": torch.get_num_threads(),
        "processes": distributed.processes(),
        "parts": parts,
    }
    if any(reported.values()):
        facts["reported"] = {name: values for name, values in reported.items() if values}
    with atomic_folder(job.folder) as folder:
        save_model(model, folder, head=head, labels=labels, structure=_structure(structure, methods))
        write_text(folder / HISTORY, _history(outcome.history))
        write_manifest(folder, job, facts)
    remove_folder(job.state)
    print(
        f"{job.run.id} seed {job.seed}: {steps} steps in {outcome.seconds:.1f} s, stored in {job.folder}",
        file=sys.stderr,
    )
    return 0


def make_targets(job: RunJob, attempt: int = 1) -> int:
    """Run a teacher once over a task's training split and store the signals that the run's method learns from."""
    parts = out_of_memory.parts(job.state, attempt, SIGNAL_BATCH)
    with recorded(job, attempt), out_of_memory.watched(job.state, parts, SIGNAL_BATCH, attempt):
        _store_signals(job, max(1, SIGNAL_BATCH // parts))
    remove_folder(job.state)
    return 0


def _store_signals(job: RunJob, batch_size: int) -> None:
    import torch

    started = time.time()
    methods = [method for _, method in own_methods(job.run) if method.signal_axes]
    if len(methods) != 1:
        raise ConfigError(
            f"run {job.run.id}: stage `targets` needs one method with signals to store, got {len(methods)}"
        )
    [method], [task] = methods, job.trained_tasks
    device = "cuda" if torch.cuda.is_available() else "cpu"
    precision = choose("auto")
    teacher = load_teacher(job).to(device)
    context = Context(seed=job.seed, teacher=teacher, head=kinds.of(task).head(task))
    split = tasks.PreparedSplit.read(job.layout.prepared(job.run.data), "train")
    collate = tasks.collate(task, split.facts, seed=job.seed, model=teacher)

    def batches() -> Iterator[tuple[dict, dict]]:
        done = 0
        for rows in tasks.LengthBucketSampler(split.lengths, batch_size, 0):
            batch = {key: value.to(device) for key, value in collate([split[row] for row in rows]).items()}
            with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
                yield batch, context.signals(method, batch)
            done += len(rows)
            if done % 6400 < len(rows):
                print(f"{done}/{len(split)} examples", file=sys.stderr, flush=True)

    with atomic_folder(job.folder) as folder:
        sizes = signals.store(folder / job.run.stored, method.signal_axes, batches())
        facts = {"precision": precision, "seconds": round(time.time() - started, 2), "threads": torch.get_num_threads()}
        write_manifest(folder, job, {**sizes, **facts})


@contextmanager
def recorded(job: RunJob, attempt: int) -> Iterator[None]:
    """Record in the state folder that this process works on the run, and a failure that would come again.

    Raises RepeatedError where this very call failed so before.
    """
    mark = failures.fingerprint(job, distributed.processes())
    failures.refuse(job.state, mark)
    check_dates(_dated(job))
    if distributed.first():
        for folder in (job.folder, job.state):
            remove_leftovers(folder)
    with failures.remembered(job.state, mark, job.run.id):
        if distributed.first():
            with process.recorded(job.state, attempt):
                yield
        else:
            yield


def _dated(job: RunJob) -> list[Path]:
    """Return the manifests of what a run is made from, as far as they are there."""
    layout, run = job.layout, job.run
    data = [*run.trained_data, *([run.spec.beside.data] if run.spec.beside else [])]
    folders = [*map(layout.prepared, data), *map(layout.model, run.models), *map(job.parent_folder, run.parents)]
    return [folder / MANIFEST for folder in folders if (folder / MANIFEST).exists()]


def parent_folder(job: RunJob, role: str) -> Path:
    """Return the folder of the parent of a role; AssetError where a file of it is missing or has another sha256."""
    folder = job.parent_folder(role)
    if not (folder / MANIFEST).exists():
        raise TrainingError(f"{folder / MANIFEST}: missing; make run {job.run.parents[role]} first")
    manifest.verify(folder, run=job.run.parents[role], seed=job.parent_seed(role))
    return folder


def own_methods(run: Run) -> Methods:
    """Instantiate the methods of a run's specification, in order."""
    methods = []
    for item in run.spec.methods:
        entry, config = registry.parse({key: value for key, value in item.items() if key != "version"})
        methods.append((entry, entry.create(config)))
    return methods


def initial_model(job: RunJob, head: str, labels: int, methods: Methods) -> tuple[Any, list[dict[str, Any]]]:
    """Return the model that a run starts from, and the structure that its stored form has already."""
    options = {"head": head, "labels": labels, "seed": job.seed}
    if "init" in job.run.parents:
        by_name = {entry.name: method for entry, method in methods}
        return load_model(parent_folder(job, "init"), **options, methods=by_name)
    model = job.run.spec.model
    entry = job.models[model.name]
    if model.random:
        return models.build(entry, **options), []
    if entry.weights_of is not None:
        return models.grown(entry, job.models[entry.weights_of], retrieved_model(job, entry.weights_of), **options), []
    return models.from_asset(entry, retrieved_model(job, model.name), **options), []


def load_teacher(job: RunJob) -> Any:
    """Return the frozen teacher in eval mode, or None."""
    task, model = job.trained_tasks[0], job.run.spec.teacher
    if "teacher" in job.run.parents:
        teacher, _ = load_model(parent_folder(job, "teacher"))
    elif model is not None:
        entry, head = job.models[model.name], kinds.of(task).teacher_head(task)
        if model.random:
            teacher = models.build(entry, head=head, seed=0)
        else:
            teacher = models.from_asset(entry, retrieved_model(job, model.name), head=head, labels=2, seed=0)
    else:
        return None
    return teacher.eval().requires_grad_(False)


def retrieved_model(job: RunJob, name: str) -> Path:
    """Return the folder of a retrieved model; AssetError where a file of it is missing or has another sha256."""
    folder = job.layout.model(name)
    manifest.verify(folder, name=name)
    return folder


def write_manifest(folder: Path, job: RunJob, facts: dict[str, Any]) -> None:
    """Write a run's manifest: hashes of its files, its specification and parents, versions, hardware and time.

    Its seal names the manifests of the data and weights that were read, all settings with their defaults, and the code.
    """
    parents = {
        role: {
            "run": parent,
            "seed": job.parent_seed(role),
            "manifest": sha256_file(job.parent_folder(role) / MANIFEST),
        }
        for role, parent in job.run.parents.items()
    }
    manifest.write(
        folder,
        {"inputs": inputs(job), "settings": settings(job), "code": code_facts()},
        run=job.run.id,
        seed=job.seed,
        scale=job.scale,
        spec=job.run.spec.content(),
        parents=parents,
        candidates=job.run.candidates,
        **facts,
        versions=_versions(),
        hardware=_hardware(),
        finished=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )


def inputs(job: RunJob) -> dict[str, str]:
    """Return the sha256 of the manifests of the tokenized data and the retrieved weights that training reads, by name."""
    data = [*job.run.trained_data, *([job.run.spec.beside.data] if job.run.spec.beside else [])]
    folders = [*map(job.layout.prepared, data), *map(job.layout.model, job.run.models)]
    return {folder.relative_to(job.layout.assets).as_posix(): manifest.digest(folder) for folder in folders}


def settings(job: RunJob) -> dict[str, Any]:
    """Return a run's training settings and its methods' options with all defaults (a tuned value is in the manifest itself)."""
    options = [(entry, method.config.model_dump(mode="json")) for entry, method in own_methods(job.run)]
    methods = [{"name": entry.name, "version": entry.version, **values} for entry, values in options]
    trained = {} if job.run.spec.train is None else {"train": job.train_settings().model_dump(mode="json")}
    return {**trained, "methods": methods}


def origin(job: RunJob, train: Train) -> str:
    """Return the hash of everything that a training is made from: a checkpoint of another one is none to go on from."""
    parents = {role: manifest.digest(job.parent_folder(role)) for role in job.run.parents}
    facts = [
        job.run.id,
        job.seed,
        train.model_dump(mode="json"),
        settings(job),
        inputs(job),
        parents,
        code_hash(),
        _versions(),
    ]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _stored_signals(job: RunJob) -> signals.StoredSignals | None:
    if "targets" not in job.run.parents:
        return None
    return signals.StoredSignals(parent_folder(job, "targets") / "signals.safetensors")


def _structure(restored: list[dict[str, Any]], methods: Methods) -> list[dict[str, Any]]:
    """Return the methods whose modules the stored model keeps, each with its options: those it came with, then the run's own."""
    own = [
        {"name": entry.name, **method.config.model_dump(mode="json")} for entry, method in methods if entry.persistent
    ]
    names = {item["name"] for item in own}
    return [item for item in restored if item["name"] not in names] + own


def _counts(model: Any) -> dict[str, int]:
    seen: set[int] = set()
    total = trainable = 0
    for parameter in model.parameters():
        if id(parameter) not in seen:
            seen.add(id(parameter))
            total += parameter.numel()
            trainable += parameter.numel() if parameter.requires_grad else 0
    return {"total_parameters": total, "trainable_parameters": trainable}


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """Return values with None for each number that is NaN or infinite."""
    return {key: finite(value) if isinstance(value, float) else value for key, value in values.items()}


def _history(history: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(_finite(entry), allow_nan=False, sort_keys=True) + "\n" for entry in history)


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    names = ("torch", "transformers", "tokenizers", "numpy")
    return {"replica": __version__, "python": platform.python_version(), **{name: version(name) for name in names}}


def _hardware() -> dict[str, Any]:
    import torch

    hardware = {"host": platform.node(), "processor": _processor(), "cores": os.cpu_count()}
    if torch.cuda.is_available():
        hardware["gpu"] = torch.cuda.get_device_name()
        hardware["gpus"] = torch.cuda.device_count()
    return hardware


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
