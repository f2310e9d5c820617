"""Write the bibliography of some papers as BibTeX; the keys are the papers' ids."""

import argparse

from replica.jobs.programs import main


def program() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--papers", nargs="+", required=True, metavar="PAPER", help="names of files in config/papers/")
    parser.add_argument("--out", required=True, help="file to write")
    parser.add_argument("--root", default=".", help="root of the checkout (default: here)")
    arguments = parser.parse_args()

    from replica.config import load_project
    from replica.files import write_text
    from replica.report.bibliography import bibtex

    project = load_project(arguments.root, papers=arguments.papers)
    write_text(arguments.out, bibtex(project.papers.values()))
    print(f"{arguments.out}: {len(project.papers)} papers")


if __name__ == "__main__":
    main(program)
