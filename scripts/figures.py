"""Draw a paper's figures as SVG, PNG and PDF from its claims and the stored measurements."""

from replica.jobs.programs import importing, main, shared_parser


def program() -> None:
    arguments = shared_parser(
        __doc__, "--paper", "--scale", "--claims", "--results", out="folder to write; its former content is replaced"
    ).parse_args()

    from replica.claims.evidence import Evidence
    from replica.claims.ledger import read_claims
    from replica.config import load_project
    from replica.plan import build_plan

    with importing():
        from replica.report.figures import write

    project = load_project(arguments.root, papers=[arguments.paper])
    paper = project.paper(arguments.paper)
    named = build_plan(project, arguments.scale).named.get(arguments.paper, {})
    evidence = Evidence(project, paper, arguments.scale, arguments.results, named)
    for entry in write(paper, read_claims(arguments.claims, arguments.paper), evidence, arguments.out):
        state = "drawn" if entry["drawn"] else "not drawn"
        print(f"{entry['id']}: {state}" + (f" ({len(entry['missing'])} not measured)" if entry["missing"] else ""))


if __name__ == "__main__":
    main(program)
