"""Names of a paper's tables and figures, and of the files that each has."""

from __future__ import annotations

from replica.config.schema import Paper

#: Tables that every paper has.
ALL_CLAIMS, TRENDS = "all-claims", "trends"
#: Figures that every paper has; trends where none of its own shows effects.
VERDICTS, AGREEMENT, EFFECTS = "verdicts", "agreement", "trends"
#: What was drawn, with titles and reasons.
LISTING = "figures.json"
TABLE_SUFFIXES, FIGURE_SUFFIXES = (".csv", ".md", ".tex"), (".csv", ".svg", ".png", ".pdf")


def table_names(paper: Paper) -> list[str]:
    """Return the names that a paper's tables may have."""
    return [*(table.id for table in paper.tables), ALL_CLAIMS, TRENDS]


def table_files(paper: Paper) -> list[str]:
    """Return the names that files of a paper's tables may have."""
    return [name + suffix for name in table_names(paper) for suffix in TABLE_SUFFIXES]


def figure_files(paper: Paper) -> list[str]:
    """Return the names that files of a paper's figures may have."""
    names = [*(figure.id for figure in paper.figures), VERDICTS, AGREEMENT, EFFECTS]
    return [LISTING, *(name + suffix for name in names for suffix in FIGURE_SUFFIXES)]
