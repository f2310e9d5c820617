"""Starts a program of the DAG with the GPUs and the time that its job was given. Uses the standard library alone.

- Without a queue, a job takes the ids of GPUs that nobody else holds: a lock on a file for each id, which the kernel opens when the
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
from pathlib import Path
from typing import IO

from replica.errors import INTERRUPTED

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
    done = subprocess.run(query, capture_output=True, text=True, check=False)
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
    said = False
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
        if not said:
            print(f"waiting for {count} of the GPUs {', '.join(ids)}: others hold them", file=sys.stderr, flush=True)
            said = True
        time.sleep(WAIT)


def _open(path: Path) -> IO[str]:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:
        descriptor = os.open(path, os.O_RDONLY)  # made by another user; a lock needs no more
        return os.fdopen(descriptor)
    return os.fdopen(descriptor, "r+")


class _Child:
    """A program that gets every SIGTERM, SIGINT and SIGUSR1 of this process, and SIGUSR1 near the time limit."""

    def __init__(self, limit: float = 0.0) -> None:
        self.process: subprocess.Popen | None = None
        self.received: list[int] = []
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, self._hand_on)
        if limit:
            signal.signal(signal.SIGALRM, lambda number, frame: self._hand_on(signal.SIGUSR1, frame))
            signal.setitimer(signal.ITIMER_REAL, limit - min(WARNING, limit / 5))

    def _hand_on(self, number: int, frame: object) -> None:
        self.received.append(number)
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def run(self, command: Sequence[str], environment: Mapping[str, str], keep: Sequence[int]) -> int:
        """Run the program to its end; returns its exit status, a signal as 128 + its number."""
        self.process = subprocess.Popen(command, env=dict(environment), pass_fds=keep)
        for number in list(self.received):  # what came before there was anybody to tell
            self.process.send_signal(number)
        status = self.process.wait()
        return status if status >= 0 else 128 - status


def run(
    program: Sequence[str], gpus: int, nodes: int, minutes: float = 0.0, environment: Mapping[str, str] | None = None
) -> int:
    """Run a Python program on `gpus` GPUs over `nodes` nodes, in a job of so many minutes (0: no limit); returns its exit status."""
    environment = dict(os.environ if environment is None else environment)
    command, in_slurm, keep = [sys.executable, *program], "SLURM_JOB_ID" in environment, ()
    if in_slurm:
        environment["SLURM_JOB_NUM_NODES"] = str(nodes)
        child = _Child(60 * minutes)
    else:
        ids = visible_gpus(environment) if gpus else []
        if not ids:
            os.execve(sys.executable, command, environment)
        child = _Child()
        held = lease(min(gpus, len(ids)), ids, lock_folder(environment))
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(held)
        keep = tuple(file.fileno() for file in held.values())
    status = child.run(command, environment, keep)
    if status == INTERRUPTED and signal.SIGUSR1 in child.received and in_slurm:
        _requeue(_own_number(environment))
    return status


def _own_number(environment: Mapping[str, str]) -> str:
    """Return the job's number; of an array's task `17_2`, because the number of one of them stands for the whole array."""
    if "SLURM_ARRAY_JOB_ID" in environment:
        return f"{environment['SLURM_ARRAY_JOB_ID']}_{environment['SLURM_ARRAY_TASK_ID']}"
    return environment["SLURM_JOB_ID"]


def _requeue(job: str) -> None:
    """Put this job back into the queue under its own number; SLURM ends it then. Where SLURM refuses, its status brings it back."""
    done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"job {job} was not put back into the queue: {done.stderr.strip()}", file=sys.stderr)
    else:
        print(f"job {job} goes back into the queue and resumes from its checkpoint", file=sys.stderr, flush=True)
        time.sleep(GRACE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and run the program after `--`."""
    parser = argparse.ArgumentParser(prog="launch", description=__doc__.partition("\n")[0])
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
