"""Set what was measured beside every claim of a paper and write the rows with their verdicts to claims.json."""

import argparse

from replica.jobs.programs import main


def program() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--paper", required=True, help="name of a file in config/papers/")
    parser.add_argument("--scale", required=True, help="smoke, laptop or paper")
    parser.add_argument("--results", default="results", help="folder of stored measurements (default: results)")
    parser.add_argument("--out", required=True, help="claims.json to write")
    parser.add_argument("--root", default=".", help="root of the checkout (default: here)")
    arguments = parser.parse_args()

    from replica.claims.compare import report
    from replica.config import load_project
    from replica.files import write_json
    from replica.plan import build_plan

    project = load_project(arguments.root, papers=[arguments.paper])
    plan = build_plan(project, arguments.scale)
    named = plan.named.get(arguments.paper, {})
    wanted = set(plan.wanted.get(arguments.paper, []))
    found = report(project, arguments.paper, arguments.scale, arguments.results, named, wanted)
    write_json(arguments.out, found)
    counts: dict[str, int] = {}
    for row in found["rows"]:
        counts[row["verdict"]] = counts.get(row["verdict"], 0) + 1
    print(f"{arguments.paper} at {arguments.scale}: " + ", ".join(f"{name} {counts[name]}" for name in sorted(counts)))


if __name__ == "__main__":
    main(program)
