"""Write the report's page and the figures it shows, and print the scorecard."""

import argparse
from pathlib import Path

from replica.programs import main


def program() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ledger", required=True, help="the ledger as JSON")
    parser.add_argument("--scale", required=True, help="smoke, laptop or paper")
    parser.add_argument("--results", default="results", help="folder of results (default: results)")
    parser.add_argument("--out", required=True, help="index.html to write; its figures go beside it")
    parser.add_argument("--root", default=".", help="root of the checkout (default: here)")
    arguments = parser.parse_args()

    from rich.console import Console

    from replica.claims.ledger import read_ledger
    from replica.config import load_project
    from replica.report.page import write
    from replica.report.scorecard import scorecard

    rows = read_ledger(arguments.ledger)
    project = load_project(arguments.root, papers=list(dict.fromkeys(row["paper"] for row in rows)))
    level = project.settings.confidence_level
    write(list(project.papers.values()), rows, arguments.scale, arguments.results, arguments.out, level)
    Console(width=None if Console().is_terminal else 120).print(scorecard(rows, Path(arguments.out).resolve()))


if __name__ == "__main__":
    main(program)
