"""Write a paper's tables, the paper's numbers beside ours, as CSV, Markdown and LaTeX."""

import argparse

from replica.jobs.programs import main


def program() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--paper", required=True, help="name of a file in config/papers/")
    parser.add_argument("--claims", required=True, help="the paper's claims.json")
    parser.add_argument("--out", required=True, help="folder to write; what it held before is replaced")
    parser.add_argument("--root", default=".", help="root of the checkout (default: here)")
    arguments = parser.parse_args()

    from replica.claims.ledger import read_claims
    from replica.config import load_project
    from replica.report.tables import write

    project = load_project(arguments.root, papers=[arguments.paper])
    names = write(project.paper(arguments.paper), read_claims(arguments.claims), arguments.out)
    print(f"{arguments.out}: {', '.join(names)}")


if __name__ == "__main__":
    main(program)
