"""The bibliography of papers as BibTeX, from their configuration."""

from __future__ import annotations

import re
from collections.abc import Iterable

from replica.config.schema import Paper
from replica.report.sheets import latex

#: A name whose initials follow it, which tell authors of one surname apart.
_INITIALS = re.compile(r"(.+?)((?:\s[A-Z]\.)+)")


def bibtex(papers: Iterable[Paper]) -> str:
    """Return an entry for each paper in order of id, which is its key.

    Entries are `@misc`, since a paper's configuration does not hold the type of its venue; `howpublished` holds the venue.
    """
    return "\n".join(entry(paper) for paper in sorted(papers, key=lambda paper: paper.id))


def entry(paper: Paper) -> str:
    """Return a paper's entry; its arXiv number, where the file has one, with the DOI that arXiv registers for it."""
    fields = {
        "author": " and ".join(_author(name) for name in paper.authors.split(", ")),
        "title": f"{{{_text(paper.title)}}}",
        "year": str(paper.year),
        "howpublished": _text(paper.venue),
    }
    if paper.arxiv:
        number = _text(paper.arxiv)
        fields.update(eprint=number, archiveprefix="arXiv", doi=f"10.48550/arXiv.{number}")
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items()]
    return "\n".join([f"@misc{{{paper.id},", *lines, "}"]) + "\n"


def _author(name: str) -> str:
    """Return a name as BibTeX takes it apart: one surname in braces, initials after a comma, `et al.` as `others`."""
    if name.strip() == "et al.":
        return "others"
    initials = _INITIALS.fullmatch(name.strip())
    return f"{{{_text(initials[1])}}}, {_text(initials[2])}" if initials else f"{{{_text(name.strip())}}}"


def _text(words: str) -> str:
    """Return text for LaTeX; braces by name, since BibTeX counts those that are escaped too."""
    return latex(words).replace(r"\{", r"\textbraceleft{}").replace(r"\}", r"\textbraceright{}")
