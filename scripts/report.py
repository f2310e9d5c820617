"""Write the report, a static site of a front page and the pages beside it, and print the scorecard."""

import argparse
from pathlib import Path

from replica.jobs.programs import main


def program() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ledger", required=True, help="the ledger as JSON")
    parser.add_argument("--scale", required=True, help="smoke, laptop or paper")
    parser.add_argument("--results", default="results", help="folder of results (default: results)")
    parser.add_argument("--out", required=True, help="index.html to write; all other pages go to site/ beside it")
    parser.add_argument("--root", default=".", help="root of the checkout (default: here)")
    arguments = parser.parse_args()

    from rich.console import Console

    from replica.claims.ledger import read_ledger
    from replica.config import load_project
    from replica.report.scorecard import scorecard
    from replica.report.site import write

    rows = read_ledger(arguments.ledger)
    papers = list(dict.fromkeys(row["paper"] for row in rows))
    project = load_project(arguments.root, papers=papers, quick=False)
    write(project, rows, arguments.scale, arguments.results, arguments.out)
    Console(width=None if Console().is_terminal else 120).print(scorecard(rows, Path(arguments.out).resolve()))


if __name__ == "__main__":
    main(program)
