"""Builds the whole site in a folder that takes the place of the old one; the front page comes last."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from replica.claims.compare import Row
from replica.config.project import Project
from replica.errors import ConfigError
from replica.files import atomic_folder, write_json, write_text
from replica.plan import build_plan
from replica.report.site import budget, comparisons, front, methods, papers, runs
from replica.report.site.pages import FOLDER, Pages, Source


def write(project: Project, rows: list[Row], scale: str, results: Path | str, out: Path | str) -> None:
    """Write the front page of a project's papers to `out` and all other pages to a folder `site/` next to it.

    `rows` are the ledger's. The site shows the ledger, the figures and tables below `results`, and the stored results of
    runs and structural measurements: only comparisons of them are computed.
    """
    out = Path(out)
    known = set(project.papers)
    for row in rows:
        if row["paper"] not in known:
            raise ConfigError(f"the ledger has rows of '{row['paper']}', which is none of the papers to report")
    source = Source(project, build_plan(project, scale, list(project.papers)), rows, scale, Path(results))
    with atomic_folder(out.parent / FOLDER) as folder:
        pages = Pages(folder, out.name, scale, project.settings.confidence_level)
        for name in ("site.css", "site.js"):
            file = resources.files("replica.report") / "templates" / name
            (folder / name).write_text(file.read_text(encoding="utf-8"), encoding="utf-8")
        used = papers.write(pages, source)
        runs.write(pages, source, used)
        points = comparisons.points(source)
        methods.write(pages, source, points)
        comparisons.write(pages, source, points)
        budget.write(pages, source, points)
        first = front.render(pages, source)
        names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        write_json(folder / "files.json", names)
    write_text(out, first)
