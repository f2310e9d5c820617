"""Starts a program of the DAG with the GPUs and the time of its job. Uses the standard library alone.

Every job of training, storing signals and scoring begins here (`scripts/launch.py`), with one program. How a training then spreads
over the GPUs and nodes that it got is `replica.jobs.spread`.

- Without a queue, a job takes the ids of GPUs that no other job holds: a lock on a file for each id, which the kernel opens when the
  last process that holds it ends, however it ends.
- Under SLURM it sends SIGUSR1 when the time limit is near; a program that answers with a checkpoint (status 85) is put back into
  the queue, under its own number, and goes on. Its own clock also serves tasks of arrays, which `sbatch --signal` does not reach.
- The program learns how many nodes its job has, which Snakemake's step hides from it.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from replica.errors import INTERRUPTED
from replica.jobs.children import Children, shell_status

#: What a program is told of: the end of its job, a person's Ctrl-C, a time limit that is near.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
#: Seconds between two looks at GPUs that others hold.
WAIT = 1.0
#: Seconds that SLURM has to end a job that was put back into the queue.
GRACE = 60.0
#: Seconds before the time limit at which a program is told: this many, or a fifth of the time if that is less.
WARNING = 300.0


def visible_gpus(environment: Mapping[str, str]) -> list[str]:
    """Return the ids of this machine's GPUs: REPLICA_GPUS, else CUDA_VISIBLE_DEVICES, else those that nvidia-smi lists."""
    for name in ("REPLICA_GPUS", "CUDA_VISIBLE_DEVICES"):
        if name in environment:
            return [item.strip() for item in environment[name].split(",") if item.strip()]
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, encoding="utf-8", errors="replace", check=False)
    return done.stdout.split() if done.returncode == 0 else []


def lock_folder(environment: Mapping[str, str]) -> Path:
    """Return the folder of the locks, one for the machine, so that checkouts and users see each other's."""
    folder = Path(environment.get("REPLICA_GPU_LOCKS") or Path(tempfile.gettempdir()) / "replica-gpus")
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o1777)
    return folder


def lease(count: int, ids: Sequence[str], folder: Path) -> dict[str, IO[str]]:
    """Wait until `count` of the GPUs are free and take them; returns id → open file, whose lock lasts as long as it is open.

    All are taken at once or none, so that two jobs that each need two never wait for each other with one in hand.
    """
    waiting = False
    while True:
        held: dict[str, IO[str]] = {}
        for name in ids:
            file = _open(folder / f"{name.replace('/', '-')}.lock")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.close()
                continue
            held[name] = file
            if len(held) == count:
                return held
        for file in held.values():
            file.close()
        if not waiting:
            print(f"waiting for {count} of the GPUs {', '.join(ids)}: others hold them", file=sys.stderr, flush=True)
            waiting = True
        time.sleep(WAIT)


def _open(path: Path) -> IO[str]:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:
        descriptor = os.open(path, os.O_RDONLY)  # made by another user; a lock needs no more
        return os.fdopen(descriptor, encoding="utf-8")
    with suppress(PermissionError):  # another user made it
        os.fchmod(descriptor, 0o666)  # whatever the umask: the next user must be able to open it
    return os.fdopen(descriptor, "r+", encoding="utf-8")


def run(program: Sequence[str], gpus: int, nodes: int, minutes: float = 0.0) -> int:
    """Run a Python program on `gpus` GPUs over `nodes` nodes, in a job of so many minutes (0: no limit); returns its exit status."""
    command, in_slurm = [sys.executable, *program], "SLURM_JOB_ID" in os.environ
    if in_slurm:
        variables, keep = {"SLURM_JOB_NUM_NODES": nodes}, ()
    else:
        ids = visible_gpus(os.environ) if gpus else []
        if not ids:
            os.execv(sys.executable, command)
        held = lease(min(gpus, len(ids)), ids, lock_folder(os.environ))
        variables, keep = {"CUDA_VISIBLE_DEVICES": ",".join(held)}, tuple(file.fileno() for file in held.values())
    with Children(SIGNALS) as children:
        if in_slurm and minutes:
            signal.signal(signal.SIGALRM, lambda number, frame: children.tell(signal.SIGUSR1))
            left = _seconds_left(_own_number(os.environ), 60 * minutes)
            signal.setitimer(signal.ITIMER_REAL, max(left - min(WARNING, 60 * minutes / 5), 0.001))
        status = shell_status(children.start(command, variables, keep).wait())
        if status == INTERRUPTED and signal.SIGUSR1 in children.received and in_slurm:
            _requeue(_own_number(os.environ))
    return status


def _seconds_left(job: str, limit: float) -> float:
    """Ask SLURM how long the job may go on: its clock runs since the allocation, not since this program; else `limit`."""
    try:
        query = ["squeue", "--noheader", "--job", job, "--format=%L"]
        text = subprocess.run(
            query, capture_output=True, encoding="utf-8", errors="replace", check=True, timeout=60
        ).stdout.strip()
        days, _, clock = text.rpartition("-")
        left = 86400.0 * int(days or 0)
        for place, part in enumerate(reversed(clock.split(":"))):
            left += int(part) * 60**place
    except (OSError, subprocess.SubprocessError, ValueError):
        return limit
    return min(left, limit)


def _own_number(environment: Mapping[str, str]) -> str:
    """Return the job's number; of an array's task `17_2`, because the number of one of them means the whole array."""
    if "SLURM_ARRAY_JOB_ID" in environment:
        return f"{environment['SLURM_ARRAY_JOB_ID']}_{environment['SLURM_ARRAY_TASK_ID']}"
    return environment["SLURM_JOB_ID"]


def _requeue(job: str) -> None:
    """Put this job back into the queue under its own number; SLURM ends it then. Where SLURM refuses, its status brings it back."""
    done = subprocess.run(
        ["scontrol", "requeue", job], capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    if done.returncode:
        print(f"job {job} was not put back into the queue: {done.stderr.strip()}", file=sys.stderr)
    else:
        print(f"job {job} goes back into the queue and resumes from its checkpoint", file=sys.stderr, flush=True)
        time.sleep(GRACE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and run the program after `--`."""
    parser = argparse.ArgumentParser(prog="launch", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--gpus", type=int, default=0, help="GPUs of the job over all its nodes (default 0)")
    parser.add_argument("--nodes", type=int, default=1, help="nodes of the job (default 1)")
    parser.add_argument(
        "--minutes", type=float, default=0.0, help="time limit of the job under SLURM (default 0: none)"
    )
    parser.add_argument("program", nargs="+", help="after `--`: a Python program and its options")
    chosen = parser.parse_args(arguments)
    return run(chosen.program, chosen.gpus, chosen.nodes, chosen.minutes)


if __name__ == "__main__":
    sys.exit(main())
