"""Merge papers' claims.json into the ledger, as CSV and JSON: sorted, and the same bytes from the same claims."""

import argparse
from pathlib import Path

from replica.jobs.programs import main


def program() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("claims", nargs="*", help="claims.json of papers")
    parser.add_argument("--results", help="instead of naming files: every paper below this folder ...")
    parser.add_argument("--scale", help="... at this scale")
    parser.add_argument("--out-csv", required=True)
    parser.add_argument("--out-json", required=True)
    parser.add_argument("--out-summary", help="counts of verdicts by paper and evidence, for `dvc metrics`")
    arguments = parser.parse_args()
    if bool(arguments.claims) == bool(arguments.results) or bool(arguments.results) != bool(arguments.scale):
        parser.error("give claims.json files, or --results with --scale")

    from replica.claims.ledger import merge, read_claims, summary, to_csv, to_json
    from replica.files import write_json, write_text

    paths = arguments.claims or sorted(Path(arguments.results, arguments.scale, "papers").glob("*/claims.json"))
    rows = merge(read_claims(path) for path in paths)
    write_text(arguments.out_csv, to_csv(rows))
    write_text(arguments.out_json, to_json(rows))
    if arguments.out_summary:
        write_json(arguments.out_summary, summary(rows))
    print(f"{len(rows)} rows of {len(paths)} papers")


if __name__ == "__main__":
    main(program)
