"""Write the report, a static site of a front page and further pages, and print the scorecard."""

from pathlib import Path

from replica.jobs.programs import main, shared_parser


def program() -> None:
    parser = shared_parser(__doc__, "--scale", "--results")
    parser.add_argument("--ledger", required=True, help="the ledger as JSON")
    parser.add_argument(
        "--out", required=True, help="index.html to write; all other pages go to site/ in the same folder"
    )
    arguments = parser.parse_args()

    from replica.claims.ledger import read_ledger
    from replica.cli.terminal import plain_console
    from replica.config import load_project
    from replica.report.scorecard import scorecard
    from replica.report.site import write

    rows = read_ledger(arguments.ledger)
    papers = list(dict.fromkeys(row["paper"] for row in rows))
    project = load_project(arguments.root, papers=papers, quick=False)
    write(project, rows, arguments.scale, arguments.results, arguments.out)
    width = None if plain_console().is_terminal else 120
    plain_console(width=width).print(scorecard(rows, Path(arguments.out).resolve()))


if __name__ == "__main__":
    main(program)
