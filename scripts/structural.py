#!/usr/bin/env python
"""Measure a paper's full-size models on the meta device and write results/structural/{paper}.json."""

from __future__ import annotations

import sys

from replica.jobs.programs import importing, main, shared_parser


def program() -> None:
    arguments = shared_parser(__doc__, "--paper", out="JSON file to write").parse_args()

    from replica.config import load_project
    from replica.files import write_json

    project = load_project(arguments.root, papers=arguments.paper)
    project.paper(arguments.paper)  # a mistake in its file ends the program before the libraries are imported
    with importing():
        from replica.measure.structural import measure_paper

    result = measure_paper(project, arguments.paper, lambda line: print(line, file=sys.stderr, flush=True))
    write_json(arguments.out, result)


if __name__ == "__main__":
    main(program)
