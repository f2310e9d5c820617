"""The page: one static HTML file with its figures beside it, read from disk without a network."""

from __future__ import annotations

import shutil
from collections import Counter
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from replica import __version__
from replica.claims.cells import cells, row_name
from replica.claims.compare import Row
from replica.claims.evidence import AGAIN
from replica.claims.numbers import text
from replica.claims.verdicts import ALL
from replica.config.schema import Paper
from replica.errors import ConfigError
from replica.files import atomic_folder, read_result, write_text
from replica.report.marks import MARKS, UNSURE, UNSURE_MEANS
from replica.report.scorecard import EVIDENCE, counts
from replica.report.tables import arms, grids

#: Verdicts that say ours is not the paper's.
_DIFFERS = ("better", "worse", "paper-inconsistent", "contradicted", "inconclusive")


def write(
    papers: list[Paper], rows: list[Row], scale: str, results: Path | str, out: Path | str, level: float = 0.95
) -> None:
    """Write the page of some papers to `out` and their figures to `figures/` beside it.

    `rows` are the ledger's. Trends seed by seed come from the papers' claims.json below `results`, figures from their folders,
    versions and hardware from the manifests of the runs that the rows name.
    """
    results, out = Path(results), Path(out)
    by_paper: dict[str, list[Row]] = {paper.id: [] for paper in papers}
    for row in rows:
        if row["paper"] not in by_paper:
            raise ConfigError(f"the ledger has rows of '{row['paper']}', which is none of the papers to report")
        by_paper[row["paper"]].append(row)
    with atomic_folder(out.parent / "figures") as figures:
        entries = [
            _paper(paper, by_paper[paper.id], scale, results / scale / "papers" / paper.id, results, figures)
            for paper in papers
        ]
    tallied = counts(rows)
    for entry in entries:
        entry["counts"] = {kind: _ordered(tallied.get(entry["id"], {}).get(kind, Counter())) for kind in EVIDENCE}
    totals = {kind: sum((tallied[p].get(kind, Counter()) for p in tallied), Counter()) for kind in EVIDENCE}
    folder = resources.files("replica.report") / "templates"
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(number=text, sentence=_sentence)
    page = environment.from_string((folder / "page.html.j2").read_text(encoding="utf-8")).render(
        css=jinja2.utils.markupsafe.Markup((folder / "page.css").read_text(encoding="utf-8")),
        papers=entries,
        scale=scale,
        total=len(rows),
        kinds=EVIDENCE,
        totals={kind: _ordered(counter) for kind, counter in totals.items()},
        marks=MARKS,
        unsure=UNSURE,
        unsure_means=UNSURE_MEANS,
        level=f"{level * 100:g}",
        version=__version__,
    )
    write_text(out, page)


def _paper(paper: Paper, rows: list[Row], scale: str, folder: Path, results: Path, figures: Path) -> dict[str, Any]:
    stored = folder / "claims.json"
    found = read_result(stored, ["trends"], AGAIN) if stored.is_file() else {"trends": {}}
    trends, tables = found["trends"], found.get("tables", {})
    by_name = {row["claim"]: row for row in rows}
    claims = []
    for claim in paper.claims:
        names = [row_name(claim, cell) for cell in cells(claim)] + ([f"{claim.id}:trend"] if claim.trend else [])
        for name in names:
            if name not in by_name:
                raise ConfigError(f"the ledger holds no row {paper.id} {name}; compare the paper again")
            row = by_name[name]
            trend = row["evidence"] == "trend"
            claims.append({
                "row": {**row, "where": "" if trend else claim.where},
                "kind": claim.kind,
                "statement": claim.trend.statement if trend and claim.trend else claim.statement,
                "place": " · ".join(filter(None, (row["dataset"], row["split"], None if trend else claim.model))),
                "reference": claim.reference and not trend,
                "state": _state(row),
            })  # fmt: skip
    return {
        "id": paper.id,
        "title": paper.title,
        "authors": paper.authors,
        "venue": paper.venue,
        "arxiv": paper.arxiv,
        "families": paper.families,
        "summary": paper.summary,
        "errata": [*paper.errata, *(f"{claim.id}: {claim.erratum}" for claim in paper.claims if claim.erratum)],
        "trends": [
            {
                "claim": claim.id,
                "statement": claim.trend.statement,
                "protocol": claim.trend.protocol,
                "reading": claim.trend.reading,
                "effect": claim.trend.effect,
                "margin": claim.trend.margin,
                "row": by_name[f"{claim.id}:trend"],
                "state": _state(by_name[f"{claim.id}:trend"]),
                **{key: trends.get(claim.id, {}).get(key, []) for key in ("effects", "seeds")},
                "arms": trends.get(claim.id, {}).get("arms", {}),
            }
            for claim in paper.claims
            if claim.trend
        ],
        "grids": grids(paper, rows),
        "arms": [arms(table, tables.get(table.id, {})) for table in paper.tables if table.arms],
        "figures": _figures(paper, folder / "figures", figures),
        "claims": claims,
        "command": f"snakemake --config scale={scale} papers={paper.id}",
        "environment": _environment(rows, results),
    }


def _figures(paper: Paper, source: Path, target: Path) -> list[dict[str, Any]]:
    listing = source / "figures.json"
    if not listing.is_file():
        return []
    found = []
    for entry in read_result(listing, again=AGAIN):
        if entry["drawn"]:
            (target / paper.id).mkdir(exist_ok=True)
            shutil.copyfile(source / f"{entry['id']}.svg", target / paper.id / f"{entry['id']}.svg")
        found.append({**entry, "src": f"figures/{paper.id}/{entry['id']}.svg"})
    return found


def _environment(rows: list[Row], results: Path) -> dict[str, Any] | None:
    """Gather versions and hardware from the manifests of the runs that the rows name; None where there are none."""
    lines: Counter[str] = Counter()
    seen = 0
    runs = sorted({(row["scale"], run) for row in rows for run in (row["runs"] or "").split()})
    for scale, run in runs:
        for path in sorted((results / scale / "runs" / run).glob("seed*/manifest.json")):
            facts = read_result(path)
            seen += 1
            for key in ("versions", "hardware"):
                for name, value in sorted((facts.get(key) or {}).items()):
                    if value is not None and name != "host":
                        lines[f"{name} {value}"] += 1
    if not seen:
        return None
    return {
        "manifests": seen,
        "lines": [line if number == seen else f"{line} ({number})" for line, number in lines.items()],
    }


def _state(row: Row) -> str:
    if row["verdict"] in ("not-run", "blocked"):
        return "open"
    return "differs" if row["verdict"] in _DIFFERS else "agrees"


def _ordered(counter: Counter[str]) -> list[tuple[str, int]]:
    return [(verdict, counter[verdict]) for verdict in ALL if counter[verdict]]


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:].rstrip(".") + "."
