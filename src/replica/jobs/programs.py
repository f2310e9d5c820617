"""What the programs in `scripts/` share: options that name a run, a quick start and end, errors as one line, exit statuses."""

from __future__ import annotations

import argparse
import gc
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from replica import secrets
from replica.errors import MISTAKE, ConfigError, ReplicaError, disk_is_full, system_error

if TYPE_CHECKING:
    from replica.plan.run_job import RunJob


#: Options that several programs share.
OPTIONS = {
    "--paper": {"required": True, "help": "name of a folder in config/papers/"},
    "--scale": {"required": True, "help": "smoke, laptop or paper"},
    "--results": {"default": "results", "help": "folder of stored measurements (default: results)"},
    "--claims": {"required": True, "help": "the paper's claims.json"},
    "--root": {"default": ".", "help": "root of the checkout (default: here)"},
}
#: Environment variable with the file of the plan that Snakemake stored for its jobs; a program that a person starts has none.
STORED_PLAN = "REPLICA_PLAN"


def shared_parser(description: str, *options: str, out: str | None = None) -> argparse.ArgumentParser:
    """Return a parser with `--root` and the named OPTIONS; `out` describes the file or folder that `--out` names."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option in (*options, "--root"):
        parser.add_argument(option, **OPTIONS[option])
    if out is not None:
        parser.add_argument("--out", required=True, help=out)
    return parser


def run_parser(description: str, attempts: bool = False) -> argparse.ArgumentParser:
    """Return a parser with the options that name one seed of one run; `attempts` adds the number of the job's submission."""
    parser = shared_parser(description, "--scale")
    parser.add_argument("--run", required=True, help="the run's id, as `replica plan` prints it")
    parser.add_argument("--seed", type=int, default=0, help="which seed (default 0)")
    if attempts:
        parser.add_argument(
            "--attempt",
            type=int,
            default=1,
            metavar="N",
            help="how often this job was submitted (default 1); a higher one after a kill without notice takes smaller micro-batches",
        )
    return parser


def run_job(arguments: argparse.Namespace) -> RunJob:
    """Return the seed of the run that a program's arguments name: from the stored plan, else planned here.

    The enabled papers are planned first; a run of a paper that was enabled for one call only is found among all papers' files.
    """
    if not 0 <= arguments.seed < 2**32:
        raise ConfigError(f"--seed {arguments.seed}: a seed is a number from 0 to {2**32 - 1}")
    from replica.paths import Layout
    from replica.plan.run_job import job_of, read_job

    layout = Layout(arguments.root)
    if STORED_PLAN in os.environ:
        path = layout.root / os.environ[STORED_PLAN]
        job = read_job(path, arguments.scale, arguments.run, arguments.seed, layout)
        if job is not None:
            return job
    from replica.config import load_project
    from replica.plan import build_plan

    project = load_project(arguments.root, quick=False)
    plan = build_plan(project, arguments.scale)
    if arguments.run not in plan.runs:
        project = load_project(arguments.root, quick=False, papers=list(project.paper_folders))
        plan = build_plan(project, arguments.scale)
    return job_of(project, plan, arguments.run, arguments.seed, layout)


@contextmanager
def importing() -> Iterator[None]:
    """Import libraries in the block: the garbage collector does not run meanwhile and ignores their objects from then on.

    The libraries of a training program make about a million objects that live as long as the process; walking them again and
    again while they are made costs a third of its start.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()


def main(program: Callable[[], int | None]) -> None:
    """Run a program; a person's mistake, or an error of the operating system, is one line on standard error.

    The exit status is that of the error (2 for most), and of a program whose reader has gone (`replica plan | head`) that of a shell.
    At the end all objects are taken from the garbage collector, which would else walk the libraries' once more.
    """
    for stream in (sys.stdout, sys.stderr):  # what the locale's encoding lacks is written as \u2192, say
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.excepthook = secrets.print_traceback
    try:
        status = program() or 0
        sys.stdout.flush()
        sys.exit(status)
    except ReplicaError as error:
        sys.stderr.write(f"error: {error}\n")  # in one piece: other processes of the run write there too
        sys.exit(error.status)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left to write goes nowhere
        sys.exit(128 + signal.SIGPIPE)
    except Exception as error:
        if not isinstance(error, OSError) and not disk_is_full(error):
            raise
        sys.stderr.write(f"error: {secrets.masked(system_error(error))}\n")
        sys.exit(MISTAKE)
    finally:
        gc.freeze()
