"""`replica verify`: whether the stored results are what their jobs wrote, and give the ledger and the tables again."""

from __future__ import annotations

from argparse import Namespace
from contextlib import suppress
from pathlib import Path
from typing import Any

from replica.cli.terminal import console, print_text, scale_option
from replica.config import load_project
from replica.errors import ConfigError, ResultError
from replica.paths import Layout
from replica.plan import build_plan


def add(verbs: Any) -> None:
    """Add the verb `verify` to the command line."""
    verb = verbs.add_parser(
        "verify",
        help="check every stored number: seals, runs, data, models; claims and tables are computed again",
        epilog="exit status: 0 where everything is as it was written, 1 where something is damaged, 2 for a mistake",
    )
    verb.set_defaults(run=verify)
    verb.add_argument("path", nargs="?", metavar="PATH", help="results folder (default: results/, with assets/)")
    scale_option(verb)


def verify(arguments: Namespace) -> int:
    """Print what was checked and a line for each damage; returns 1 where there is any, else 0."""
    from replica.claims.ledger import read_ledger
    from replica.sharing.verify import verify as check

    results = Path(arguments.path) if arguments.path else Layout(arguments.root).results
    if not results.is_dir():
        raise ConfigError(f"{results}: no such folder; `snakemake` makes results")
    project = load_project(arguments.root)
    with suppress(ResultError):  # the papers of this ledger, enabled or not
        papers = dict.fromkeys(row["paper"] for row in read_ledger(results / "claims.json"))
        project = load_project(arguments.root, papers=[name for name in papers if name in project.paper_folders])
    outcome = check(project, build_plan(project, arguments.scale), results, assets=arguments.path is None)
    for line in outcome.damage:
        print_text(f"damaged: {line}")
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(outcome.checked.items()))
    console.print(f"{len(outcome.damage)} damaged; checked {counts or 'nothing'}")
    if outcome.other_code or outcome.unknown_code:
        console.print(
            f"{outcome.other_code} seeds were made by other code than this checkout's, {outcome.unknown_code} do not say by which"
        )
    return 1 if outcome.damage else 0
