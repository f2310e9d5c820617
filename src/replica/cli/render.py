"""`replica render`: ledger, tables, figures and report site from pinned evidence alone."""

from __future__ import annotations

import shutil
from argparse import Namespace
from pathlib import Path
from typing import Any

from replica.claims.ledger import merge, read_ledger, summary, to_csv, to_json
from replica.cli.terminal import console
from replica.config import Project, load_project
from replica.errors import ConfigError
from replica.files import atomic_folder, write_json, write_text
from replica.paths import Layout
from replica.plan import build_plan
from replica.seals import write_sealed

#: Marks a folder that `replica render` wrote and may replace.
MARK = "rendered.json"


def add(verbs: Any) -> None:
    """Add the verb `render` to the command line."""
    verb = verbs.add_parser(
        "render", help="tables, figures and report site from pinned evidence; needs no data, models or training"
    )
    verb.set_defaults(run=render)
    verb.add_argument("papers", nargs="*", metavar="PAPER", help="papers (default: all of the pinned ledger)")
    verb.add_argument("--from", dest="source", metavar="FOLDER", help="folder of evidence (default: results/pinned)")
    verb.add_argument("--out", metavar="FOLDER", help="folder to write or renew (default: results/rendered)")
    verb.add_argument("--scale", default="laptop", help="scale of the pinned runs (default: laptop)")
    verb.add_argument("--site", action="store_true", help="also the report's site, report/index.html")


def render(arguments: Namespace) -> int:
    """Write a results folder: the named papers' evidence, ledger, tables and figures, and with `--site` the report."""
    layout = Layout(arguments.root)
    source = Path(arguments.source) if arguments.source else layout.results / "pinned"
    out = Path(arguments.out) if arguments.out else layout.results / "rendered"
    rows = read_ledger(source / "claims.json")
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / MARK).is_file()):
        raise ConfigError(f"--out {out}: holds files that `replica render` did not write; name another folder")
    papers = list(dict.fromkeys(arguments.papers or (row["paper"] for row in rows)))
    project = load_project(arguments.root, papers=papers)
    with atomic_folder(out) as folder:
        write_json(folder / MARK, {"from": str(source), "scale": arguments.scale, "papers": papers})
        _write(project, arguments.scale, source, folder)
        if arguments.site:
            from replica.report import site

            rows = read_ledger(folder / "claims.json")
            project = load_project(arguments.root, papers=papers, quick=False)
            site.write(project, rows, arguments.scale, folder, folder / "report" / "index.html")
    console.print(f"{len(papers)} papers in {out / arguments.scale / 'papers'}")
    if arguments.site:
        console.print(f"report: {(out / 'report' / 'index.html').resolve()}")
    return 0


def _write(project: Project, scale: str, source: Path, folder: Path) -> None:
    """Copy the evidence of a project's papers to `folder`, compare it again, and write ledger, tables and figures there."""
    from replica.claims.compare import report
    from replica.claims.evidence import Evidence
    from replica.report import figures, tables
    from replica.report.bibliography import bibtex

    plan = build_plan(project, scale)
    layout = Layout(folder)
    copied = [f"structural/{name}.json" for name in project.papers]
    copied += [f"{scale}/runs/{run}.json" for run in plan.runs]
    for name in copied:
        if (source / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, folder / name)
    reports = []
    for name, paper in project.papers.items():
        named, wanted = plan.named.get(name, {}), set(plan.wanted.get(name, []))
        claims = report(project, name, scale, folder, named, wanted)
        target = folder / layout.paper(scale, name).relative_to(layout.results)
        write_sealed(target / "claims.json", claims)
        tables.write(paper, claims, target / "tables")
        figures.write(paper, claims, Evidence(project, paper, scale, folder, named), target / "figures")
        reports.append(claims)
    rows = merge(reports)
    write_text(folder / "claims.csv", to_csv(rows))
    write_text(folder / "claims.json", to_json(rows))
    write_json(folder / "summary.json", summary(rows))
    write_text(folder / "papers.bib", bibtex(project.papers.values()))
