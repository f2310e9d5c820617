"""Write a paper's tables, with the paper's numbers and ours, as CSV, Markdown and LaTeX."""

from replica.jobs.programs import main, shared_parser


def program() -> None:
    arguments = shared_parser(
        __doc__, "--paper", "--claims", out="folder to write; its former content is replaced"
    ).parse_args()

    from replica.claims.ledger import read_claims
    from replica.config import load_project
    from replica.report.tables import write

    project = load_project(arguments.root, papers=[arguments.paper])
    names = write(project.paper(arguments.paper), read_claims(arguments.claims, arguments.paper), arguments.out)
    print(f"{arguments.out}: {', '.join(names)}")


if __name__ == "__main__":
    main(program)
