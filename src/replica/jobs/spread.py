"""One training process for each GPU, on one node or on several, and one exit status for all of them. Imports no torch.

`scripts/train.py` calls it, inside a job that has its GPUs and nodes (`replica.jobs.launch` got them). It replaces torchrun, and
adds, for jobs: a signal reaches every process and all have the time of the job's end to write their checkpoint, and the status is
that of the process that failed first for a reason, not of those that lost it. On several nodes the program starts itself once more on
each through `srun`, which hands signals on.
"""

from __future__ import annotations

import os
import platform
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from replica.errors import DIVERGED, INTERRUPTED, MISTAKE, OUT_OF_MEMORY, TrainingError
from replica.jobs.children import Children, shell_status
from replica.training.interruption import SIGNALS

#: Set by the program that starts itself on several nodes: how many there are.
NODES = "REPLICA_NODES"
#: Seconds between the end of one process and that of the others, which cannot go on without it.
GRACE = 10.0
#: The status of all, where processes end with different ones: the first of these.
ORDER = (DIVERGED, MISTAKE, OUT_OF_MEMORY, INTERRUPTED)


@dataclass(frozen=True)
class Shape:
    """How many nodes, and how many processes on each."""

    nodes: int = 1
    each: int = 1

    @property
    def total(self) -> int:
        """Processes over all nodes."""
        return self.nodes * self.each


def inside(environment: Mapping[str, str] = os.environ) -> bool:
    """Say whether this process is one of several that were started already, here or by torchrun."""
    return "RANK" in environment and "WORLD_SIZE" in environment


def shape(gpus: int, processes: int | None = None, environment: Mapping[str, str] = os.environ) -> Shape:
    """Return how a run on `gpus` GPUs is spread: over the nodes of its SLURM job, a process for each GPU that is there.

    `processes` on this node where a person sets them. Without a GPU it is one process.
    """
    if NODES in environment:
        return Shape(int(environment[NODES]), processes or 1)
    if processes is not None:
        return Shape(1, processes)
    if gpus <= 1:
        return Shape()
    nodes = int(environment.get("SLURM_JOB_NUM_NODES", "1")) if "SLURM_JOB_ID" in environment else 1
    if gpus % nodes:
        raise TrainingError(f"{gpus} GPUs cannot be shared evenly by {nodes} nodes; ask for a multiple")
    there = visible(environment)
    if there == 0:
        print(f"no GPU here: one process on the processor instead of {gpus} GPUs", file=sys.stderr)
        return Shape()
    if there < gpus // nodes:
        if nodes > 1:
            raise TrainingError(
                f"{platform.node()}: {there} GPUs are there, and {gpus} over {nodes} nodes need {gpus // nodes}"
            )
        print(f"{there} of {gpus} GPUs are there: {there} processes, with larger micro-batches", file=sys.stderr)
        return Shape(1, there)
    return Shape(nodes, gpus // nodes)


def visible(environment: Mapping[str, str] = os.environ) -> int:
    """Return the number of GPUs that this process may use."""
    listed = environment.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return len([item for item in listed.split(",") if item.strip() not in ("", "-1", "NoDevFiles")])
    import torch

    return torch.cuda.device_count()


def launch(command: Sequence[str], shape: Shape) -> int:
    """Run a command as `shape.total` processes with the variables of torchrun; returns their exit status."""
    if shape.nodes > 1 and NODES not in os.environ:
        return _on_nodes(command, shape)
    node = int(os.environ.get("SLURM_PROCID", "0")) if shape.nodes > 1 else 0
    address = os.environ["MASTER_ADDR"] if shape.nodes > 1 else "127.0.0.1"
    port = os.environ["MASTER_PORT"] if shape.nodes > 1 else str(_free_port())
    threads = max(1, int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1) // shape.each)
    with Children(SIGNALS) as children:
        for local in range(shape.each):
            variables = {
                "RANK": node * shape.each + local,
                "LOCAL_RANK": local,
                "WORLD_SIZE": shape.total,
                "LOCAL_WORLD_SIZE": shape.each,
                "MASTER_ADDR": address,
                "MASTER_PORT": port,
                "OMP_NUM_THREADS": threads,
            }
            children.start(command, variables)
        return wait(children.started)


def wait(started: Sequence[subprocess.Popen]) -> int:
    """Wait for processes that need each other; where one fails, the others have GRACE seconds to end and are then killed.

    One that was killed from outside without notice, while this process lives on, is taken to have been too large.
    """
    deadline, large = None, False
    while True:
        ended = [process.poll() for process in started]
        if deadline is None or time.monotonic() < deadline:
            large = large or -signal.SIGKILL in ended
        else:
            for process in started:
                process.kill()
        if None not in ended:
            return together([*ended, OUT_OF_MEMORY] if large else ended)
        if deadline is None and any(status not in (None, 0, INTERRUPTED) for status in ended):
            deadline = time.monotonic() + GRACE
        time.sleep(0.05)


def together(statuses: Sequence[int]) -> int:
    """Return one status for all processes: a reason before the loss of a neighbour; a signal as 128 + number."""
    for status in ORDER:
        if status in statuses:
            return status
    return shell_status(next((status for status in statuses if status), 0))


def _on_nodes(command: Sequence[str], shape: Shape) -> int:
    """Start the command once on every node of the SLURM job; there it starts its own processes."""
    step = [
        "srun",
        "--overlap",
        f"--nodes={shape.nodes}",
        f"--ntasks={shape.nodes}",
        "--ntasks-per-node=1",
        "--kill-on-bad-exit=0",
    ]
    variables = {NODES: shape.nodes, "MASTER_ADDR": platform.node(), "MASTER_PORT": _free_port()}
    inner = [*command, "--processes", str(shape.each)]
    with Children(SIGNALS) as children:
        children.start([*step, *inner], variables)
        return wait(children.started)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]
