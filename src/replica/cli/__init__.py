"""The command line `replica`: what a plan holds, what is done, where a number comes from. Starts fast: no torch."""

from __future__ import annotations

import argparse

from replica.programs import main as run_program

EPILOG = """examples:
  replica plan                         what the configured scale would run, before anything starts
  replica plan --scale paper minilm    GPU hours, disk and the longest path of one paper at its published size
  replica status                       what is done, running, interrupted, failed or not run
  replica explain minilm-half-transformer   from a number back to its run, configuration, data and weights
  replica scorecard                    the verdicts of the last ledger
  replica pin                          keep the last run's text results under version control
"""


def parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    top = argparse.ArgumentParser(
        prog="replica", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    top.add_argument("--root", default=".", help="root of the checkout (default: here)")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")

    plan = verbs.add_parser("plan", help="runs, shared jobs, hours, disk and longest path before anything starts")
    plan.add_argument("papers", nargs="*", metavar="PAPER", help="papers (default: those of config/config.yaml)")
    plan.add_argument("--scale", help="smoke, laptop or paper (default: config/config.yaml)")
    plan.add_argument("--all", action="store_true", help="also the trends that are not marked quick")
    plan.add_argument("--runs", action="store_true", help="a line per run")

    status = verbs.add_parser("status", help="what is done, running, interrupted, failed, not run")
    status.add_argument("papers", nargs="*", metavar="PAPER")
    status.add_argument("--scale")
    status.add_argument("--all", action="store_true", help="also the trends that are not marked quick")

    explain = verbs.add_parser(
        "explain", help="walk a claim's number back to its jobs, configuration, data and weights"
    )
    explain.add_argument("claim", help="a claim of the ledger, e.g. compacter-params or minilm-retain-99pct:trend")
    explain.add_argument("--ledger", help="ledger to read (default: results/claims.json)")

    score = verbs.add_parser("scorecard", help="print the verdicts of a ledger")
    score.add_argument("--ledger", help="ledger to read (default: results/claims.json)")

    pin = verbs.add_parser(
        "pin", help="copy ledger, tables, figures and records of the last run to results/pinned/, for git"
    )
    pin.add_argument("--scale", default="laptop", help="scale whose runs are pinned (default: laptop)")
    return top


def main() -> None:
    """Entry point of `replica`."""
    arguments = parser().parse_args()

    def program() -> int:
        from replica.cli import verbs

        return getattr(verbs, arguments.verb)(arguments)

    run_program(program)
