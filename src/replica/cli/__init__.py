"""The command line `replica`: plan, run, follow, explain, compare and share. Starts fast: no torch."""

from __future__ import annotations

import argparse

from replica.cli import (
    diff,
    explain,
    hub_assets,
    logs,
    measure,
    pin,
    plan,
    publishing,
    render,
    run,
    status,
    verify,
    watch,
)
from replica.cli.terminal import OneLine
from replica.jobs.programs import main as run_program

EPILOG = """examples:
  replica plan                         the runs of the configured scale, before anything starts
  replica plan --scale paper minilm    GPU hours, disk and the longest path of one paper at its published size
  replica plan --scale paper --profile slurm   also which partitions the jobs fall on, and which fit none
  replica run minilm                   regenerate a paper's tables and figures, with live progress and verdicts
  replica run lst-glue-avg             the runs that one claim's verdict needs, and no more
  replica status                       runs that are done, running, interrupted, failed or not run; verdicts by paper
  replica watch                        follow the jobs, here or on a cluster: steps, loss, expected end
  replica logs RUN                     why a job failed: state, remembered failure and the end of its logs
  replica forget RUN                   let a run be tried again that failed in a way it would repeat
  replica explain minilm-half-transformer   from a number back to its run, configuration, data and weights
  replica scorecard                    the verdicts of the last ledger
  replica diff main~1 main             changed verdicts and numbers of the pinned results of two commits
  replica measure t5-base --method compacter:n=4 --batch 16   memory, parameters and FLOPs of a fine-tuning
  replica measure bert-base-uncased --budget 4GB   the methods that fit
  replica lock                         write the hub's commits and digests to config/hub.lock.yaml
  replica mirror sync FOLDER minilm    copy a paper's data and models from the hub, for a machine without a network
  replica verify                       whether stored numbers are what their jobs wrote, and give the ledger again
  replica pin                          keep the evidence of the last run under version control
  replica render                       tables and figures from the pinned evidence
  replica publish minilm               upload a paper's data, checkpoints and tables for others (docs/sharing.md)
  replica adopt minilm                 download them, every sha256 verified: no run is left to do
"""

#: The modules of the verbs, in the order of the help. Each adds its verbs with their options; `run=` is the function behind a verb.
VERBS = (plan, run, status, watch, logs, explain, diff, verify, pin, render, publishing, measure, hub_assets)


def parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    top = OneLine(
        prog="replica", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    top.add_argument("--root", default=".", help="root of the checkout (default: here)")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    for module in VERBS:
        module.add(verbs)
    return top


def main() -> None:
    """Entry point of `replica`."""
    arguments = parser().parse_args()
    run_program(lambda: arguments.run(arguments))
