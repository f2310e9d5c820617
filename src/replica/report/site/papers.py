"""A page per paper: claims, tables with the paper's number and ours, figures, trends with protocol, pitfalls, cost."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from replica.claims.cells import cells, row_name
from replica.claims.compare import Row
from replica.claims.evidence import Evidence, Missing
from replica.claims.expressions import UnknownName, names
from replica.claims.ledger import read_claims
from replica.claims.run_files import AGAIN
from replica.config.schema import Claim, Figure, Paper
from replica.errors import ConfigError
from replica.files import plain_file, read_result
from replica.report.names import LISTING, table_names
from replica.report.site.front import subjects
from replica.report.site.pages import OF_SCALE, Pages, Source, anchor
from replica.report.site.stored_runs import facts_of
from replica.report.tables import arms, grids

#: Verdicts that say ours is not the paper's.
_DIFFERS = ("better", "worse", "paper-inconsistent", "contradicted", "inconclusive")

#: run id → the rows that read it: (paper, row's name).
Used = dict[str, list[tuple[str, str]]]


def write(pages: Pages, source: Source) -> Used:
    """Write every paper's page with its figures and tables; returns where each run is used."""
    used: Used = {}
    for paper in source.papers:
        folder = source.results / source.scale / "papers" / paper.id
        entry = _paper(paper, source, folder, pages.folder)
        for claim in entry["claims"]:
            for run in claim["runs"]:
                used.setdefault(run, []).append((paper.id, claim["row"]["claim"]))
        for trend in entry["trends"]:
            for run in (run for arm in trend["arms"].values() for run in arm["runs"]):
                mention = (paper.id, trend["row"]["claim"])
                if mention not in used.setdefault(run, []):
                    used[run].append(mention)
        pages.write(f"papers/{paper.id}.html", "paper.html.j2", paper=paper, **entry)
    return used


def _paper(paper: Paper, source: Source, folder: Path, site: Path) -> dict[str, Any]:
    rows = source.by_paper[paper.id]
    stored = folder / "claims.json"
    claims_file = read_claims(stored, paper.id) if stored.is_file() else {"trends": {}}
    trends, tables = claims_file["trends"], claims_file.get("tables", {})
    by_name = {row["claim"]: row for row in rows}
    evidence = Evidence(source.project, paper, source.scale, source.results, source.plan.named.get(paper.id, {}))
    claims = []
    for claim in paper.claims:
        row_names = [row_name(claim, cell) for cell in cells(claim)] + ([f"{claim.id}:trend"] if claim.trend else [])
        for name in row_names:
            if name not in by_name:
                raise ConfigError(f"the ledger holds no row {paper.id} {name}; compare the paper again")
            claims.append(_claim(claim, by_name[name]))
    return {
        "claims": claims,
        "trends": [
            _trend(claim, by_name[f"{claim.id}:trend"], trends.get(claim.id, {}), evidence)
            for claim in paper.claims
            if claim.trend
        ],
        "errata": [*paper.errata, *(f"{claim.id}: {claim.erratum}" for claim in paper.claims if claim.erratum)],
        "pitfalls": _pitfalls(paper, by_name),
        "grids": grids(paper, rows),
        "arms": {table.id: arms(table, tables.get(table.id, {})) for table in paper.tables if table.arms},
        "tables": _tables(paper, folder / "tables", site / "tables" / paper.id),
        "figures": _figures(paper, rows, evidence, folder / "figures", site / "figures" / paper.id),
        "subjects": subjects(paper),
        "cost": _cost(paper, source),
        "command": f"snakemake --config scale={source.scale} papers={paper.id} quick=false",
    }


def _claim(claim: Claim, row: Row) -> dict[str, Any]:
    trend = row["evidence"] == "trend"
    return {
        "row": row,
        "runs": (row["runs"] or "").split(),
        "where": "" if trend else claim.where,
        "kind": claim.kind,
        "statement": claim.trend.statement if trend and claim.trend else claim.statement,
        "place": " · ".join(filter(None, (row["dataset"], row["split"], None if trend else claim.model))),
        "reference": claim.reference and not trend,
        "state": _state(row),
    }


def _trend(claim: Claim, row: Row, stored: dict[str, Any], evidence: Evidence) -> dict[str, Any]:
    """Gather a trend's protocol, result and arms, each arm with the runs that its expression reads.

    Numbers seed by seed are shown only where the ledger has the trend measured.
    """
    trend = claim.trend
    assert trend is not None
    measured = row["our_value"] is not None
    shown = {}
    for label, expression in trend.shows.items():
        try:
            runs = evidence.runs(expression, "laptop")
        except (Missing, UnknownName):
            runs = []
        values = stored.get("arms", {}).get(label) if measured else None
        shown[label] = {"runs": runs, "mean": values and values["mean"], "values": values["values"] if values else []}
    return {
        "trend": trend,
        "row": row,
        "state": _state(row),
        "arms": shown,
        "effects": stored.get("effects", []) if measured else [],
        "seeds": stored.get("seeds", []) if measured else [],
    }


def _pitfalls(paper: Paper, by_name: dict[str, Row]) -> list[dict[str, str]]:
    """Return the explanations of numbers that differ from the paper's; one entry for a reason that several rows share."""
    reasons: dict[str, str] = {}
    for claim in paper.claims:
        if not claim.explain:
            continue
        for cell in cells(claim):
            row = by_name[row_name(claim, cell)]
            if row["verdict"] in _DIFFERS and ": " in row["reason"]:
                reasons.setdefault(row["reason"].split(": ", 1)[1], row["claim"])
    return [{"reason": reason, "claim": claim} for reason, claim in reasons.items()]


def _tables(paper: Paper, source: Path, target: Path) -> set[str]:
    """Copy the CSV files of a paper's tables; returns their names."""
    named = [name for name in table_names(paper) if (source / f"{name}.csv").is_file()]
    for name in named:
        _copy(source, f"{name}.csv", target)
    return set(named)


def _figures(paper: Paper, rows: list[Row], evidence: Evidence, source: Path, target: Path) -> list[dict[str, Any]]:
    """Copy the figures and their data; returns the contents of their captions."""
    listing = source / LISTING
    if not listing.is_file():
        return []
    declared = {figure.id: figure for figure in paper.figures}
    listed = []
    for entry in read_result(listing, again=AGAIN):
        name, data = entry["id"], False
        if entry["drawn"]:
            _copy(source, f"{name}.svg", target)
            if data := (source / f"{name}.csv").is_file():
                _copy(source, f"{name}.csv", target)
        figure = declared.get(name)
        kinds = _kinds(paper, figure, evidence) if figure else _common_kinds(name, rows)
        listed.append({**entry, "data": data, "evidence": sorted(kinds)})
    return listed


def _copy(source: Path, name: str, target: Path) -> None:
    """Copy a file that a paper's results name, and no other through a link."""
    target.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(plain_file(source, name), target / name)


def _common_kinds(name: str, rows: list[Row]) -> set[str]:
    if name == "trends":
        return {"trend"}
    shown = rows if name == "verdicts" else [row for row in rows if row["our_value"] is not None]
    return {row["evidence"] for row in shown if name == "verdicts" or row["evidence"] != "trend"}


def _kinds(paper: Paper, figure: Figure, evidence: Evidence) -> set[str]:
    """Return the kinds of evidence that a declared figure shows, from the names in its expressions."""
    if figure.kind == "effects":
        return {"trend"}
    of_claim = {claim.id: str(claim.evidence) for claim in paper.claims}
    kinds: set[str] = set()
    for name in _expressions(figure.series):
        if name in of_claim:
            kinds.add(of_claim[name])
            continue
        for used in _names(name):
            space, _, rest = used.partition(".")
            if space in ("runs", "history"):
                kinds.add(OF_SCALE[evidence.section_of(f"runs.{rest}")])
            elif space in ("ours", "paper"):
                kinds.update(kind for claim, kind in of_claim.items() if rest == claim or rest.startswith(f"{claim}."))
            else:
                kinds.add("structural")
    return kinds


def _expressions(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [item for inner in value.values() for item in _expressions(inner)]
    return [str(value)]


def _names(text: str) -> set[str]:
    """Return the names of one or several expressions; a part in braces is replaced by the names that are stored there."""
    try:
        return set(names(f"max({re.sub(r'[{}]', '', text)})"))
    except ConfigError:
        return set()


def _cost(paper: Paper, source: Source) -> dict[str, Any]:
    """Count the paper's runs and sum the cost of the stored ones, with versions, hardware and code from their manifests."""
    planned = sorted({run for section in source.plan.named.get(paper.id, {}).values() for run in section.values()})
    manifests = [seed.manifest for run in planned for seed in source.runs[run].seeds if seed.manifest]
    lines: Counter[str] = Counter()
    for manifest in manifests:
        lines.update(line for _, line in facts_of(manifest))
    seconds = [facts["seconds"] for facts in manifests if facts.get("seconds") is not None]
    return {
        "planned": planned,
        "stored": [run for run in planned if source.runs[run].seeds],
        "pinned": any(source.runs[run].pinned for run in planned),
        "manifests": len(manifests),
        "seconds": sum(seconds) if seconds else None,
        "lines": [line if count == len(manifests) else f"{line} ({count})" for line, count in lines.items()],
    }


def _state(row: Row) -> str:
    if row["verdict"] in ("not-run", "blocked"):
        return "open"
    return "differs" if row["verdict"] in _DIFFERS else "agrees"


def claim_link(paper: str, row: str) -> str:
    """Return the address of a row of a paper's page, from the folder of the site."""
    return f"papers/{paper}.html#{anchor(row)}"
