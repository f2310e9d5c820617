#!/usr/bin/env python
"""Measure a paper's full-size models on the meta device and write results/structural/{paper}.json."""

from __future__ import annotations

import sys

from replica.jobs.programs import importing, main, shared_parser


def program() -> None:
    arguments = shared_parser(__doc__, "--paper", out="JSON file to write").parse_args()

    from replica.claims.evidence import measurement_settings
    from replica.config import load_project
    from replica.seals import code_facts, write_sealed

    project = load_project(arguments.root, papers=arguments.paper)
    project.paper(arguments.paper)  # a mistake in its file ends the program before the libraries are imported
    with importing():
        from replica.measure.structural import measure_paper

    result = measure_paper(project, arguments.paper, lambda line: print(line, file=sys.stderr, flush=True))
    settings = measurement_settings(project, project.paper(arguments.paper))
    write_sealed(arguments.out, result, settings=settings, code=code_facts())


if __name__ == "__main__":
    main(program)
