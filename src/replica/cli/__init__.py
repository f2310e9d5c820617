"""The command line `replica`: what a plan holds, what is done, where a number comes from. Starts fast: no torch."""

from __future__ import annotations

import argparse
from typing import NoReturn

from replica.cli import assets, measure_flags
from replica.jobs.programs import main as run_program

EPILOG = """examples:
  replica plan                         what the configured scale would run, before anything starts
  replica plan --scale paper minilm    GPU hours, disk and the longest path of one paper at its published size
  replica plan --scale paper --profile slurm   also which partitions the jobs fall on, and which fit none
  replica run minilm                   regenerate a paper's tables and figures, with live progress and verdicts
  replica run lst-glue-avg             what one claim's verdict needs, and no more
  replica status                       what is done, running, interrupted, failed or not run; verdicts by paper
  replica watch                        follow what runs, here or on a cluster: steps, loss, expected end
  replica logs RUN                     why a job failed: state, remembered failure and the end of its logs
  replica forget RUN                   let a run be tried again that failed in a way it would repeat
  replica explain minilm-half-transformer   from a number back to its run, configuration, data and weights
  replica scorecard                    the verdicts of the last ledger
  replica compare main~1 main          changed verdicts and numbers of the pinned results of two commits
  replica measure t5-base --method compacter:n=4 --batch 16   memory, parameters and FLOPs of a fine-tuning
  replica measure bert-base-uncased --budget 4GB   which methods fit
  replica lock                         write the hub's commits and digests to config/hub.lock.yaml
  replica mirror sync FOLDER minilm    copy what a paper needs from the hub, for a machine without a network
  replica pin                          keep the last run's text results under version control
  replica publish minilm               put a paper's data, checkpoints and tables up for others (docs/sharing.md)
  replica adopt minilm                 take them over, every sha256 verified: nothing is left to run
"""


class OneLine(argparse.ArgumentParser):
    """A parser whose complaint is one line that says where help is."""

    def error(self, message: str) -> NoReturn:
        """Print the mistake and leave with status 2."""
        self.exit(2, f"error: {message} (`{self.prog} --help`)\n")


def parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    top = OneLine(
        prog="replica", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    top.add_argument("--root", default=".", help="root of the checkout (default: here)")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")

    plan = verbs.add_parser("plan", help="runs, shared jobs, hours, disk and longest path before anything starts")
    plan.add_argument("papers", nargs="*", metavar="PAPER", help="papers (default: those of config/config.yaml)")
    plan.add_argument("--scale", help="smoke, laptop or paper (default: config/config.yaml)")
    plan.add_argument("--all", action="store_true", help="also the trends that are not marked quick")
    plan.add_argument("--runs", action="store_true", help="a line per run")
    plan.add_argument(
        "--profile", metavar="NAME", help="also what falls on a profile's partitions, and what exceeds its limits"
    )

    run = verbs.add_parser(
        "run",
        help="regenerate papers or single claims, with live progress and the verdicts at the end",
        epilog="The call of Snakemake stands in the first line; its output in logs/run/. Stopped, the same call goes on.",
    )
    run.add_argument(
        "names",
        nargs="*",
        metavar="PAPER|CLAIM",
        help="papers with all their trends, or claims with what their verdicts need (default: the whole report)",
    )
    run.add_argument("--scale", help="smoke, laptop or paper (default: config/config.yaml)")
    run.add_argument("--all", action="store_true", help="also the trends that are not marked quick")
    run.add_argument("--profile", metavar="NAME", help="slurm, slurm-gres, workstation or your own (default: here)")
    run.add_argument("--dry-run", action="store_true", help="say what would run, and why")
    run.add_argument("--snakemake", metavar="OPTIONS", help='further options of Snakemake, e.g. "--keep-going"')

    status = verbs.add_parser(
        "status", help="what is done, running, interrupted, failed, not run; and each paper's claims"
    )
    status.add_argument("papers", nargs="*", metavar="PAPER")
    status.add_argument("--scale")
    status.add_argument("--all", action="store_true", help="also the trends that are not marked quick")
    status.add_argument("--runs", action="store_true", help="a line per run, however many there are")
    status.add_argument("--ledger", help="ledger to count claims in (default: results/claims.json)")

    watch = verbs.add_parser("watch", help="follow what runs: jobs done, steps and losses, expected end")
    watch.add_argument("papers", nargs="*", metavar="PAPER", help="papers (default: those of config/config.yaml)")
    watch.add_argument("--scale", help="smoke, laptop or paper (default: config/config.yaml)")
    watch.add_argument("--all", action="store_true", help="also the trends that are not marked quick")
    watch.add_argument("--once", action="store_true", help="look once")
    watch.add_argument(
        "--every", type=float, metavar="SECONDS", help="between two looks (default: 5 on a terminal, else 60)"
    )

    logs = verbs.add_parser("logs", help="how a run's seeds stand and what their jobs said, SLURM's logs with them")
    logs.add_argument("--lines", type=int, default=20, help="last lines of every log, 0 for all (default: 20)")
    logs.add_argument("--paths", action="store_true", help="print the files' names alone")
    forget = verbs.add_parser("forget", help="forget a run's remembered failures, so that it is tried again")
    for verb in (logs, forget):
        verb.add_argument("run", metavar="RUN", help="a run's id, a part of it, or a paper's name for it")
        verb.add_argument("--scale", help="smoke, laptop or paper (default: config/config.yaml)")
        verb.add_argument("--seed", type=int, help="one seed (default: all)")

    explain = verbs.add_parser(
        "explain", help="walk a claim's number back to its jobs, configuration, data and weights"
    )
    explain.add_argument("claim", help="a claim of the ledger, e.g. compacter-params or minilm-retain-99pct:trend")
    explain.add_argument("--ledger", help="ledger to read (default: results/claims.json)")

    score = verbs.add_parser("scorecard", help="print the verdicts of a ledger")
    score.add_argument("--ledger", help="ledger to read (default: results/claims.json)")

    compare = verbs.add_parser(
        "compare",
        help="changed verdicts and numbers between two commits' pinned results, or two folders",
        epilog="exit status: 0, or 1 where something differs and --fail-on-change is given; 2 for a mistake",
    )
    compare.add_argument("before", metavar="A", help="a commit (branch, tag, HEAD~1), or a folder with claims.json")
    compare.add_argument(
        "after", metavar="B", nargs="?", help="the same (default: results/claims.json here, else the pinned one)"
    )
    compare.add_argument("--markdown", action="store_true", help="print Markdown, for a pull request's comment")
    compare.add_argument("--html", metavar="FILE", help="also write a page with every difference")
    compare.add_argument(
        "--most", type=int, default=40, metavar="N", help="rows of each printed table, 0 for all (default: 40)"
    )
    compare.add_argument("--fail-on-change", action="store_true", help="exit with status 1 where something differs")

    pin = verbs.add_parser(
        "pin", help="copy ledger, tables, figures and records of the last run to results/pinned/, for git"
    )
    pin.add_argument("--scale", default="laptop", help="scale whose runs are pinned (default: laptop)")

    publish = verbs.add_parser("publish", help="verify, pin and push finished runs with their data, through DVC")
    publish.add_argument(
        "names",
        nargs="*",
        metavar="RUN|PAPER",
        help="runs and papers (default: everything finished of config/config.yaml)",
    )
    adopt = verbs.add_parser(
        "adopt", help="take over what was published, verified file by file, so that nothing is left to run"
    )
    adopt.add_argument("papers", nargs="*", metavar="PAPER", help="papers (default: those of config/config.yaml)")
    adopt.add_argument(
        "--evaluate",
        action="store_true",
        help="also score the checkpoints again and compare with the published metrics",
    )
    adopt.add_argument("--replace", action="store_true", help="let files that differ make way for the published ones")
    for verb in (publish, adopt):
        verb.add_argument("--scale", help="smoke, laptop or paper (default: config/config.yaml)")
        verb.add_argument("--remote", help="DVC remote (default: DVC's default)")

    measure_flags.add(verbs)
    assets.add(verbs)
    return top


def main() -> None:
    """Entry point of `replica`."""
    arguments = parser().parse_args()

    def program() -> int:
        if arguments.verb == "measure":
            from replica.cli.measure import measure

            return measure(arguments)
        if arguments.verb == "status":
            from replica.cli.status import status

            return status(arguments)
        if arguments.verb == "run":
            from replica.cli.run import run

            return run(arguments)
        if arguments.verb == "watch":
            from replica.cli.watch import watch

            return watch(arguments)
        if arguments.verb == "compare":
            from replica.cli.compare import compare

            return compare(arguments)
        if arguments.verb in ("lock", "mirror"):
            return getattr(assets, arguments.verb)(arguments)
        if arguments.verb in ("logs", "forget"):
            from replica.cli import logs

            return getattr(logs, arguments.verb)(arguments)
        if arguments.verb in ("publish", "adopt"):
            from replica.cli import sharing

            return getattr(sharing, arguments.verb)(arguments)
        from replica.cli import verbs

        return getattr(verbs, arguments.verb)(arguments)

    run_program(program)
