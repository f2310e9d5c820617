"""Write the bibliography of some papers as BibTeX; the keys are the papers' ids."""

from replica.jobs.programs import main, shared_parser


def program() -> None:
    parser = shared_parser(__doc__, out="file to write")
    parser.add_argument("--papers", nargs="+", required=True, metavar="PAPER", help="names of files in config/papers/")
    arguments = parser.parse_args()

    from replica.config import load_project
    from replica.files import write_text
    from replica.report.bibliography import bibtex

    project = load_project(arguments.root, papers=arguments.papers)
    write_text(arguments.out, bibtex(project.papers.values()))
    print(f"{arguments.out}: {len(project.papers)} papers")


if __name__ == "__main__":
    main(program)
