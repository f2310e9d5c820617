"""`replica pin`: the last run's evidence for version control; `replica render` makes tables, figures and pages from it."""

from __future__ import annotations

import shutil
from argparse import Namespace
from typing import Any

from replica.cli.explain import ledger_of
from replica.cli.terminal import console
from replica.files import atomic_folder, plain_file, write_json, write_text
from replica.paths import Layout

#: Files below results/ that are copied as they are, beside the measurements of the papers in the ledger.
COPIED = ("claims.csv", "claims.json", "summary.json", "papers.bib")


def add(verbs: Any) -> None:
    """Add the verb `pin` to the command line."""
    verb = verbs.add_parser(
        "pin", help="pack the last run's evidence (ledger, measurements, runs) in results/pinned/, for git"
    )
    verb.set_defaults(run=pin)
    verb.add_argument("--scale", default="laptop", help="scale whose runs are pinned (default: laptop)")


def pin(arguments: Namespace) -> int:
    """Replace results/pinned/ with the last run's ledger, its numbers, structural measurements, and one packed file per run."""
    from replica.claims.ledger import numbers
    from replica.claims.run_files import pack

    results = Layout(arguments.root).results
    _, rows = ledger_of(arguments.root, None)
    with atomic_folder(results / "pinned") as folder:
        for name in [*COPIED, *(f"structural/{paper}.json" for paper in dict.fromkeys(row["paper"] for row in rows))]:
            if (results / name).is_file():
                (folder / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(plain_file(results, name), folder / name)
        write_json(folder / "numbers.json", numbers(rows))
        for run in (results / arguments.scale / "runs").glob("[!.]*/"):
            if (text := pack(run)) is not None:
                write_text(folder / arguments.scale / "runs" / f"{run.name}.json", text)
        paths = [path for path in folder.rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in paths)
    console.print(f"{len(paths)} files, {size / 1e6:.1f} MB, pinned in {results / 'pinned'}")
    return 0
