"""A private SLURM on this machine for as long as a block runs, what it says of its jobs, and Snakemake started on it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import psutil

from tests.workflow.checkout import environment

HERE = Path(__file__).resolve().parent
PROGRAMS = ("slurmctld", "slurmd", "slurmdbd", "munged", "mariadbd", "sbatch", "sacct")
FIELDS = ("JobIDRaw", "State", "ReqMem", "Submit", "Start", "End", "Comment", "WorkDir", "AllocTRES")

Found = TypeVar("Found")


def missing() -> str:
    """Say what this machine lacks of a private SLURM and where it comes from; empty where nothing is missing."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    lacking = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    if lacking:
        packages = "apt install slurm-wlm slurmdbd munge mariadb-server"
        return f"no SLURM on this machine ({', '.join(lacking)} not found): {packages}"
    return "" if os.geteuid() == 0 else "only root can start a private SLURM"


def wait_for(what: str, look: Callable[[], Found], seconds: float, every: float = 0.1) -> Found:
    """Return the first true answer of `look`; AssertionError after `seconds` says what did not come."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(every)
    raise AssertionError(f"waited {seconds:.0f} s for {what}")


@dataclass(frozen=True)
class Job:
    """One execution of a SLURM job: a requeued job has several, under one number."""

    id: str
    state: str
    memory_mb: int
    submitted: datetime
    start: datetime | None
    end: datetime | None
    comment: str
    folder: Path
    resources: str


def _time(text: str) -> datetime | None:
    return datetime.fromisoformat(text) if text[:1].isdigit() else None


def _megabytes(text: str) -> int:
    units = {"K": 1 / 1024, "M": 1, "G": 1024, "T": 1024**2}
    text = text.rstrip("nc")  # SLURM 21 and older say "per node" or "per core"
    return round(float(text[:-1]) * units[text[-1]]) if text else 0


class Cluster:
    """A running private SLURM below `folder`."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.environment = {
            **environment(),
            "PATH": f"{folder / 'bin'}{os.pathsep}{environment()['PATH']}",
            "SLURM_CONF": str(folder / "slurm.conf"),
        }

    def call(self, *command: str) -> str:
        """Run one of SLURM's commands; returns what it prints."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, encoding="utf-8", timeout=60, check=False
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
        return done.stdout.strip()

    def jobs(self, folder: Path) -> list[Job]:
        """Every execution of every job that was submitted from a folder, in order of submission."""
        query = ("sacct", "-X", "--duplicates", "--parsable2", "--noheader", "--starttime", "now-1days")
        found = []
        for line in self.call(*query, f"--format={','.join(FIELDS)}").splitlines():
            number, state, memory, submit, start, end, comment, workdir, tres = line.split("|")
            if Path(workdir) == folder:
                state = state.partition(" ")[0]  # "CANCELLED by 0"
                times = (_time(submit), _time(start), _time(end))
                found.append(Job(number, state, _megabytes(memory), *times, comment, Path(workdir), tres))
        return sorted(found, key=lambda job: (int(job.id.partition("_")[0]), job.submitted, job.start or datetime.max))

    def lose_mortal(self) -> None:
        """Let the node `mortal` die: kill its daemon and all that runs on it, then tell the controller, as its monitoring would."""
        keepers, others = [psutil.Process(int((self.folder / "run" / "mortal.pid").read_text(encoding="utf-8")))], []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                variables = process.environ()
                if (variables.get("SLURMD_NODENAME"), variables.get("SLURM_CONF")) == (
                    "mortal",
                    self.environment["SLURM_CONF"],
                ):
                    others.append(process)
                    keepers += [parent for parent in process.parents() if parent.name() == "slurmstepd"]
        for process in (*keepers, *others):  # those that would report an end first
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.call("scontrol", "update", "nodename=mortal", "state=down", "reason=died")

    def snakemake(self, folder: Path, *arguments: str) -> Controller:
        """Start `snakemake --profile slurm` in a checkout, as a person on a login node would."""
        return Controller(self, folder, arguments)


class Controller:
    """A running Snakemake that submits to the cluster."""

    def __init__(self, cluster: Cluster, folder: Path, arguments: tuple[str, ...]):
        self.cluster, self.folder = cluster, folder
        self.output = folder / "controller.log"
        command = [sys.executable, "-m", "snakemake", "--profile", "slurm", "--nocolor", *arguments]
        with open(self.output, "w", encoding="utf-8") as handle:
            self.process = subprocess.Popen(
                command, cwd=folder, env=cluster.environment, start_new_session=True, stdout=handle, stderr=handle
            )

    def text(self) -> str:
        """What it printed so far."""
        return self.output.read_text(encoding="utf-8")

    def wait(self, seconds: float = 500) -> int:
        """Wait for its end and return the exit status."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            jobs = "\n".join(map(str, self.cluster.jobs(self.folder)))
            text = f"Snakemake did not end in {seconds:.0f} s:\n{self.text()[-4000:]}\n{jobs}"
            raise AssertionError(text) from None

    def __enter__(self) -> Controller:
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:  # a test gave up: it cancels its jobs when it is interrupted
            os.killpg(self.process.pid, signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(20)
                return
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def _free_ports(count: int) -> int:
    """First of `count` neighbouring ports that nobody listens on."""
    for first in range(16817 + 10 * (os.getpid() % 200), 65000, 10):
        with contextlib.ExitStack() as stack:
            try:
                for port in range(first, first + count):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return first
    raise AssertionError("no free ports")


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Cluster]:
    """Start a private SLURM below `folder` (slurm-up.sh) and end it, and nothing else, afterwards (slurm-down.sh)."""
    try:
        done = subprocess.run(
            [str(HERE / "slurm-up.sh"), str(folder)],
            env={**os.environ, "PORT": str(_free_ports(5))},
            start_new_session=True,  # a person's Ctrl-C ends the tests, which end the cluster
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            timeout=120,
            check=False,
        )
        logs = "".join(
            f"== {path.name}\n{path.read_text(encoding='utf-8')[-1500:]}\n"
            for path in sorted((folder / "log").glob("*"))
        )
        assert done.returncode == 0, f"{done.stdout}\n{logs}"
        yield Cluster(folder)
    finally:
        subprocess.run([str(HERE / "slurm-down.sh"), str(folder)], timeout=120, check=False, capture_output=True)
