#!/usr/bin/env python
"""Measure a paper's full-size models on the meta device and write results/structural/{paper}.json."""

from __future__ import annotations

import argparse
import sys

from replica.jobs.programs import importing, main


def program() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--paper", required=True, help="the paper's id, as its file in config/papers is named")
    parser.add_argument("--root", default=".", help="root of the checkout (default: here)")
    parser.add_argument("--out", required=True, help="JSON file to write")
    arguments = parser.parse_args()

    from replica.config import load_project
    from replica.files import write_json

    project = load_project(arguments.root, papers=arguments.paper)
    project.paper(arguments.paper)  # a mistake in its file is said before the libraries are there
    with importing():
        from replica.measure.structural import measure_paper

    result = measure_paper(project, arguments.paper, lambda line: print(line, file=sys.stderr, flush=True))
    write_json(arguments.out, result)


if __name__ == "__main__":
    main(program)
