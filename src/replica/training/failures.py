"""Failures that the same call would repeat are remembered, so that a job that is submitted again ends at once. Imports no torch.

`failed.json`, in the folder of the resume checkpoints, holds status, message and a fingerprint of the run: its specification, task,
inputs, number of processes and the code. A job whose fingerprint is the same ends with that status and message; a change of any of
them, `replica forget RUN`, or removing the file lets it try again. A failure that may pass by itself (a full disk, a lost connection,
too little memory) is not remembered.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from replica import secrets
from replica.errors import OUT_OF_MEMORY, RepeatedError, ReplicaError
from replica.files import read_json, write_json
from replica.paths import FAILED, MANIFEST, MEMORY, Layout
from replica.plan.run_job import RunJob
from replica.seals import code_hash

#: Exit status of Python for an unexpected error.
BUG = 1
#: Errors that a program makes by itself, whatever the machine does.
BUGS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NameError,
    NotImplementedError,
    TypeError,
    ValueError,
)
#: Files of a run that its children read; its scores come later and change no child.
TRAINED = (MANIFEST, "model.json", "model.safetensors", "signals.safetensors")
#: Words in errors of the machine or of other processes, which may not come again.
PASSING = (
    "CUDA",
    "cuDNN",
    "CUBLAS",
    "NCCL",
    "gloo",
    "onnection",
    "timed out",
    "Timeout",
    "DataLoader worker",
    "PytorchStreamWriter",
    "unexpected pos",
    "iostream",
)


def fingerprint(job: RunJob, processes: int = 1) -> str:
    """Return the hash of everything that a training call's course depends on, as far as it can be known without training."""
    run, layout = job.run, job.layout
    tokenized = [*job.trained_folders, *([layout.prepared(run.spec.beside.data)] if run.spec.beside else [])]
    parents = [*map(job.parent_folder, run.parents), *map(job.candidate_folder, run.candidates)]
    facts = {
        "run": [run.id, job.seed, run.spec.content(), run.parents, run.candidates],
        "task": job.trained_tasks[0].model_dump(mode="json"),
        "inputs": [
            *(_files(folder) for folder in [*tokenized, *map(layout.model, run.models)]),
            *(_files(folder, TRAINED) for folder in parents),
        ],
        "processes": processes,
        "code": code_hash(whole=True),
        "versions": _versions(),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def refuse(folder: Path, mark: str) -> None:
    """Raise RepeatedError where the last call failed below `folder` with this fingerprint and checkpoints; else forget that failure."""
    path = folder / FAILED
    try:
        facts = read_json(path)
        status, message = int(facts["status"]), str(facts["message"])
        same = facts["fingerprint"] == mark and facts["checkpoints"] == _checkpoints(folder)
    except FileNotFoundError:
        return
        same = same and status > 0
    except (ReplicaError, ValueError, KeyError, TypeError):
        same = False  # half a mark is none
    if not same:
        path.unlink(missing_ok=True)
        return
    raise RepeatedError(
        f"{message} [failed so {facts.get('when', 'before')}; nothing has changed since, so it is not tried again: "
        f"`replica forget {facts.get('run', 'RUN')}` lets it]",
        status,
    )


@contextmanager
def remembered(folder: Path, mark: str, run_id: str) -> Iterator[None]:
    """Leave `failed.json` below `folder` when the block fails in a way that the same call would repeat."""
    try:
        yield
    except Exception as error:
        status = repeatable(error)
        if status is not None:
            write_json(
                folder / FAILED,
                {
                    "status": status,
                    "message": _message(error),
                    "fingerprint": mark,
                    "checkpoints": _checkpoints(folder),
                    "run": run_id,
                    "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                },
            )
        raise


def repeatable(error: Exception) -> int | None:
    """Return the exit status of an error that the same call would meet again, or None where another try may end better."""
    if isinstance(error, ReplicaError):
        return None if error.status == OUT_OF_MEMORY else error.status
    if isinstance(error, BUGS):
        return BUG
    if type(error) is RuntimeError and not any(word in str(error) for word in PASSING):
        return BUG  # shapes that do not fit and the like
    return None


def forget(layout: Layout, scale: str, run_id: str, seeds: list[int]) -> list[Path]:
    """Remove what a run's seeds remember of failures and of memory; returns the removed files. Checkpoints stay."""
    paths = [layout.resume(scale, run_id, seed) / name for seed in seeds for name in (FAILED, MEMORY)]
    removed = [path for path in paths if path.exists()]
    for path in removed:
        path.unlink()
    return removed


def _message(error: Exception) -> str:
    if isinstance(error, ReplicaError):
        return str(error)
    last = traceback.extract_tb(error.__traceback__)[-1]
    text = str(error).strip().partition("\n")[0]
    where = f"(at {Path(last.filename).name}, line {last.lineno}, in {last.name})"
    return f"{type(error).__name__}: {secrets.masked(text)} {where}"


def _checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("checkpoint-*"))


def _files(folder: Path, names: tuple[str, ...] | None = None) -> list[Any]:
    """Names, sizes and times of a folder's files: a file that is made, mended or fetched again is another one."""
    if not folder.is_dir():
        return []
    stats = {
        path.name: path.stat() for path in folder.iterdir() if path.is_file() and path.name in (names or [path.name])
    }
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in sorted(stats.items())]


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    names = ("torch", "transformers", "accelerate", "tokenizers", "numpy")
    return {"python": sys.version.split()[0], **{name: version(name) for name in names}}
