"""`replica pin`: the text results of the last run, copied to results/pinned/ for git."""

from __future__ import annotations

import shutil
from argparse import Namespace
from typing import Any

from replica.cli.explain import ledger_of
from replica.cli.options import console
from replica.files import atomic_folder, write_json
from replica.paths import Layout

#: What of results/ is small text or pictures and worth keeping; weights, predictions and PDF stay out.
PINNED = (
    "claims.csv",
    "claims.json",
    "summary.json",
    "papers.bib",
    "structural/*.json",
    "{scale}/papers/**/*",
    "{scale}/runs/*/seed*/manifest.json",
    "{scale}/runs/*/seed*/metrics.json",
    "{scale}/runs/*/seed*/measures.json",
    "{scale}/runs/*/seed*/history.jsonl",
)


def add(verbs: Any) -> None:
    """Add the verb `pin` to the command line."""
    verb = verbs.add_parser(
        "pin", help="copy ledger, tables, figures and records of the last run to results/pinned/, for git"
    )
    verb.set_defaults(run=pin)
    verb.add_argument("--scale", default="laptop", help="scale whose runs are pinned (default: laptop)")


def pin(arguments: Namespace) -> int:
    """Copy the text results of the last run to results/pinned/, with the ledger's numbers, replacing what was pinned before."""
    from replica.claims.ledger import numbers

    results = Layout(arguments.root).results
    _, rows = ledger_of(arguments.root, None)
    paths = [
        path
        for pattern in PINNED
        for path in sorted(results.glob(pattern.format(scale=arguments.scale)))
        if path.is_file() and path.suffix not in (".pdf", ".png") and not path.name.startswith(".")
    ]
    with atomic_folder(results / "pinned") as folder:
        for path in paths:
            target = folder / path.relative_to(results)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        write_json(folder / "numbers.json", numbers(rows))
    size = sum(path.stat().st_size for path in paths)
    console.print(f"{len(paths)} files, {size / 1e6:.1f} MB, pinned in {results / 'pinned'}")
    return 0
