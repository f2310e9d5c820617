"""Shared by all pages: their places, links between them, and the templates with their filters."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2

from replica import __version__
from replica.claims.compare import Row
from replica.claims.numbers import significant, text
from replica.config.project import Project
from replica.config.schema import Paper
from replica.plan import Plan
from replica.report.marks import MARKS, UNSURE, UNSURE_MEANS
from replica.report.scorecard import EVIDENCE
from replica.report.site.stored_runs import StoredRun, stored_runs

#: Folder with all pages but index.html.
FOLDER = "site"
#: Kind of evidence that a run's numbers are, by scale.
OF_SCALE = {"laptop": "trend", "paper": "full", "smoke": "smoke"}
#: Each kind of evidence in one sentence.
MEANS = {
    "structural": "follows from the architecture alone, measured at the paper's full size",
    "trend": "the claimed effect at a size that a laptop trains; not to be compared with the paper's numbers",
    "full": "the paper's own model, data and schedule",
    "smoke": "generated data and tiny models: proves the plumbing and no claim",
}


@dataclass(frozen=True)
class Source:
    """The inputs of all pages."""

    project: Project
    plan: Plan
    rows: list[Row]
    scale: str
    results: Path

    @property
    def papers(self) -> list[Paper]:
        """The reported papers."""
        return list(self.project.papers.values())

    @cached_property
    def runs(self) -> dict[str, StoredRun]:
        """Every run that is planned, stored or named in the ledger."""
        stored = stored_runs(self.results, self.scale)
        named = {run for row in self.rows for run in (row["runs"] or "").split()}
        return {name: stored.get(name, StoredRun(name)) for name in sorted({*stored, *named, *self.plan.runs})}

    @cached_property
    def by_paper(self) -> dict[str, list[Row]]:
        """The ledger's rows by paper."""
        rows: dict[str, list[Row]] = {paper.id: [] for paper in self.papers}
        for row in self.rows:
            rows[row["paper"]].append(row)
        return rows

    @cached_property
    def names(self) -> dict[str, list[tuple[str, str]]]:
        """Return the names of each run: id → (paper, name)."""
        names_by_run: dict[str, list[tuple[str, str]]] = {}
        for paper, sections in self.plan.named.items():
            for named in sections.values():
                for name, run in named.items():
                    names_by_run.setdefault(run, []).append((paper, name))
        return names_by_run

    def spec(self, run: str) -> dict[str, Any]:
        """Return a run's resolved specification, as it was made, else as it is planned; empty where neither is known."""
        planned = self.plan.runs.get(run)
        return self.runs[run].first.get("spec") or (planned.spec.content() if planned else {})

    def called(self, run: str) -> str:
        """Return the first name that a paper gives a run; else its id."""
        names = self.names.get(run)
        return f"{names[0][0]}: {names[0][1]}" if names else run


class Pages:
    """Writes pages below a folder; each knows the way to the others."""

    def __init__(self, folder: Path, home: str, scale: str, level: float):
        self.folder, self.home = folder, home
        environment = jinja2.Environment(
            loader=jinja2.PackageLoader("replica.report", "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        environment.filters.update(
            number=text, rounded=rounded, short=short, sentence=sentence, anchor=anchor, quantity=quantity
        )
        environment.globals.update(
            marks=MARKS, unsure=UNSURE, unsure_means=UNSURE_MEANS, kinds=EVIDENCE, means=MEANS, scale=scale,
            level=f"{level * 100:g}", version=__version__,
        )  # fmt: skip
        self.environment = environment

    def render(self, path: str, template: str, **values: Any) -> str:
        """Render a template for its place below the folder (`papers/x.html`); an empty path is the front page, above the folder."""
        depth = path.count("/")
        site = "../" * depth if path else f"{FOLDER}/"
        home = "../" * (depth + 1) + self.home if path else self.home
        return self.environment.get_template(template).render(site=site, home=home, **values)

    def write(self, path: str, template: str, **values: Any) -> None:
        """Render a template and write it to a path below the folder."""
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(self.render(path, template, **values), encoding="utf-8")


def anchor(name: str) -> str:
    """Return a row's name as an id that a link can name: other characters than letters, digits, `.`, `-`, `_` as their codes."""
    return "c-" + re.sub(r"[^A-Za-z0-9._-]", lambda match: f"~{ord(match.group()):x}", name)


def sentence(words: str) -> str:
    """Return words as a sentence."""
    return words[:1].upper() + words[1:].rstrip(".") + "."


def rounded(value: Any) -> str:
    """Return a measured number with as many digits as the ledger keeps."""
    return text(significant(value))


def short(value: Any) -> str:
    """Return a number with four significant digits, for pages that compare; text as it is."""
    return text(significant(value, 4)) if isinstance(value, float) else text(value)


_UNITS = {
    "bytes": [(2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "bytes")],
    "flops": [(1e12, "TFLOPs"), (1e9, "GFLOPs"), (1e6, "MFLOPs"), (1, "FLOPs")],
    "seconds": [(3600, "h"), (60, "min"), (1, "s")],
    "milliseconds": [(1, "ms")],
}


def quantity(value: float | int | None, unit: str) -> str:
    """Return a measured quantity in a unit of its size (`1.5 GiB`); parameters whole, with commas; an empty text for None."""
    if value is None:
        return ""
    if unit == "parameters":
        return f"{value:,.0f}"
    for size, name in _UNITS[unit]:
        if abs(value) >= size:
            return f"{value / size:.3g} {name}" if value / size < 1000 else f"{value / size:,.0f} {name}"
    return f"{value:.3g} {_UNITS[unit][-1][1]}"
