"""Starts a program of the DAG with the GPUs, processes and nodes that its job was given. Uses the standard library alone.

- Without a queue, a job takes the ids of GPUs that nobody else holds: a lock on a file for each id, which the kernel opens when the
  last process that holds it ends, however it ends.
- With several GPUs it starts one process for each, with torchrun's variables (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT);
  over several nodes, one launcher on each through `srun`. Unlike torchrun it hands signals on without a time limit of its own, and
  ends with the exit status of the process that ended first in failure.
- Under SLURM it sends SIGUSR1 when the time limit is near; a program that answers with a checkpoint (status 85) is put back into
  the queue, under its own number, and goes on. Its own clock also serves tasks of arrays, which `sbatch --signal` does not reach.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from replica.errors import ConfigError

#: Exit status of a program that was told to stop, wrote a checkpoint and can be started again.
INTERRUPTED = 85
#: Seconds between two looks at the processes, and at GPUs that others hold.
LOOK, WAIT = 0.1, 1.0
#: Seconds that the other processes have to end after one has failed.
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


class _Signals:
    """Hands SIGTERM, SIGINT and SIGUSR1 on to the processes, sends SIGUSR1 near the time limit, and remembers what came."""

    def __init__(self, limit: float = 0.0) -> None:
        self.processes: list[subprocess.Popen] = []
        self.received: set[int] = set()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, self._hand_on)
        if limit:
            signal.signal(signal.SIGALRM, lambda number, frame: self._hand_on(signal.SIGUSR1, frame))
            signal.setitimer(signal.ITIMER_REAL, limit - min(WARNING, limit / 5))

    def _hand_on(self, number: int, frame: object) -> None:
        self.received.add(number)
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(number)

    def start(self, command: Sequence[str], environment: Mapping[str, str], keep: Sequence[int]) -> None:
        """Start a process; a signal that came before is handed on to it."""
        self.processes.append(subprocess.Popen(command, env=dict(environment), pass_fds=keep))
        for number in self.received:
            self.processes[-1].send_signal(number)


def wait_for(processes: Sequence[subprocess.Popen]) -> int:
    """Wait until all processes have ended; when one fails, the others are ended after it. Returns 0, or the first failure's status."""
    failed, deadline = None, 0.0
    while True:
        states = [process.poll() for process in processes]
        if failed is None:
            failed = next((state for state in states if state), None)
            if failed is not None and failed != INTERRUPTED:
                for process in processes:
                    if process.poll() is None:
                        process.terminate()
                deadline = time.monotonic() + GRACE
        if all(state is not None for state in states):
            return 0 if failed is None else failed if failed > 0 else 128 - failed
        if deadline and time.monotonic() > deadline:
            for process in processes:
                if process.poll() is None:
                    process.kill()
        time.sleep(LOOK)


def run(
    program: Sequence[str], gpus: int, nodes: int, minutes: float = 0.0, environment: Mapping[str, str] | None = None
) -> int:
    """Run a Python program on `gpus` GPUs over `nodes` nodes, in a job of so many minutes (0: no limit); returns its exit status."""
    environment = dict(os.environ if environment is None else environment)
    in_slurm, outermost = "SLURM_JOB_ID" in environment, "REPLICA_NODE_GPUS" not in environment
    if gpus <= 1 and not in_slurm and not (gpus and visible_gpus(environment)):
        os.execve(sys.executable, [sys.executable, *program], environment)
    signals = _Signals(60 * minutes if in_slurm and outermost else 0.0)
    command = [sys.executable, *program]
    if nodes > 1 and outermost:
        signals.start(_over_nodes(program, gpus, nodes, environment), environment, ())
    else:
        count, keep = max(1, int(environment.get("REPLICA_NODE_GPUS", gpus))), ()
        if gpus and not in_slurm:
            ids = visible_gpus(environment)
            count = min(count, len(ids)) or 1
            if ids:
                held = lease(count, ids, lock_folder(environment))
                environment["CUDA_VISIBLE_DEVICES"] = ",".join(held)
                keep = tuple(file.fileno() for file in held.values())
            if count < gpus:
                print(f"{gpus} GPUs were planned and {len(ids)} are here: {count} process(es)", file=sys.stderr)
        for local, variables in enumerate(_ranks(count, nodes, environment)):
            signals.start(command, {**environment, **variables, "LOCAL_RANK": str(local)}, keep)
    status = wait_for(signals.processes)
    if status == INTERRUPTED and signal.SIGUSR1 in signals.received and in_slurm and outermost:
        return _requeue(environment["SLURM_JOB_ID"])
    return status


def _ranks(count: int, nodes: int, environment: Mapping[str, str]) -> list[dict[str, str]]:
    """Return torchrun's variables for the processes of this node; for a single process there are none."""
    if count * nodes == 1:
        return [{}]
    node = int(environment.get("SLURM_NODEID", "0")) if nodes > 1 else 0
    threads = max(1, int(environment.get("OMP_NUM_THREADS", "1")) // count)
    shared = {
        "WORLD_SIZE": str(count * nodes),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": environment.get("MASTER_ADDR", "127.0.0.1") if nodes > 1 else "127.0.0.1",
        "MASTER_PORT": environment["MASTER_PORT"] if nodes > 1 else str(_free_port()),
        "OMP_NUM_THREADS": str(threads),
    }
    return [{**shared, "RANK": str(node * count + local)} for local in range(count)]


def _over_nodes(program: Sequence[str], gpus: int, nodes: int, environment: dict[str, str]) -> list[str]:
    """Return the command that starts a launcher on each node of the job's allocation; sets where its processes meet."""
    if "SLURM_JOB_ID" not in environment:
        raise ConfigError(f"{nodes} nodes: only a SLURM job has several; set gpus_per_node in config/scales/ for one")
    each, rest = divmod(gpus, nodes)
    if rest:
        raise ConfigError(f"{gpus} GPUs cannot be shared evenly by {nodes} nodes; set gpus_per_node in config/scales/")
    job = environment["SLURM_JOB_ID"]
    environment.update(REPLICA_NODE_GPUS=str(each), MASTER_ADDR=socket.gethostname())
    environment["MASTER_PORT"] = str(20000 + int(job) % 20000)
    step = ["srun", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", f"--gres=gpu:{each}"]
    step.append(f"--cpus-per-task={environment.get('OMP_NUM_THREADS', '1')}")
    options = ["--gpus", str(gpus), "--nodes", str(nodes)]
    return [*step, sys.executable, "-m", "replica.launch", *options, "--", *program]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _requeue(job: str) -> int:
    """Put this job back into the queue under its own number; SLURM ends it then. Returns INTERRUPTED where SLURM refuses."""
    done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"job {job} was not put back into the queue: {done.stderr.strip()}", file=sys.stderr)
    else:
        print(f"job {job} goes back into the queue and resumes from its checkpoint", file=sys.stderr, flush=True)
        time.sleep(GRACE)
    return INTERRUPTED


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and run the program after `--`."""
    parser = argparse.ArgumentParser(prog="launch", description=__doc__.partition("\n")[0])
    parser.add_argument("--gpus", type=int, default=0, help="GPUs of the job over all its nodes (default 0)")
    parser.add_argument("--nodes", type=int, default=1, help="nodes of the job (default 1)")
    parser.add_argument("--minutes", type=float, default=0.0, help="time limit of the job under SLURM (default 0: none)")
    parser.add_argument("program", nargs="+", help="after `--`: a Python program and its options")
    chosen = parser.parse_args(arguments)
    try:
        return run(chosen.program, chosen.gpus, chosen.nodes, chosen.minutes)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
