"""The report as a static site: a front page, and pages of papers, methods, runs, comparisons and budgets."""

from replica.report.site.build import write

__all__ = ["write"]
