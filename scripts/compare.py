"""Compare every claim of a paper with our measurements and write the rows with their verdicts to claims.json."""

from collections import Counter

from replica.jobs.programs import main, shared_parser


def program() -> None:
    arguments = shared_parser(__doc__, "--paper", "--scale", "--results", out="claims.json to write").parse_args()

    from replica.claims.compare import report
    from replica.config import load_project
    from replica.plan import build_plan
    from replica.seals import write_sealed

    project = load_project(arguments.root, papers=[arguments.paper])
    plan = build_plan(project, arguments.scale)
    named = plan.named.get(arguments.paper, {})
    wanted = set(plan.wanted.get(arguments.paper, []))
    result = report(project, arguments.paper, arguments.scale, arguments.results, named, wanted)
    write_sealed(arguments.out, result)
    counts = Counter(row["verdict"] for row in result["rows"])
    print(f"{arguments.paper} at {arguments.scale}: " + ", ".join(f"{name} {counts[name]}" for name in sorted(counts)))


if __name__ == "__main__":
    main(program)
