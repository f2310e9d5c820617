"""Draw a paper's figures as SVG, PNG and PDF from its claims and the stored measurements."""

import argparse

from replica.jobs.programs import importing, main


def program() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--paper", required=True, help="name of a file in config/papers/")
    parser.add_argument("--scale", required=True, help="smoke, laptop or paper")
    parser.add_argument("--claims", required=True, help="the paper's claims.json")
    parser.add_argument("--results", default="results", help="folder of stored measurements (default: results)")
    parser.add_argument("--out", required=True, help="folder to write; what it held before is replaced")
    parser.add_argument("--root", default=".", help="root of the checkout (default: here)")
    arguments = parser.parse_args()

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
    for entry in write(paper, read_claims(arguments.claims), evidence, arguments.out):
        state = "drawn" if entry["drawn"] else "not drawn"
        print(f"{entry['id']}: {state}" + (f" ({len(entry['missing'])} not measured)" if entry["missing"] else ""))


if __name__ == "__main__":
    main(program)
