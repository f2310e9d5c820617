"""The rows of the ledger: every claim of a paper with our measurement and a verdict computed from both."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from replica.claims import verdicts
from replica.claims.cells import Cell, by_cell, cells, row_name, tolerance_of
from replica.claims.evidence import Evidence, Missing, Outcome, where
from replica.claims.expressions import names
from replica.claims.numbers import significant
from replica.claims.statistics import aggregate, interval, t_interval
from replica.config.project import Project
from replica.config.schema import Claim, Paper, Table, Trend
from replica.errors import ConfigError

#: The ledger's columns, in order.
COLUMNS = (
    "paper", "claim", "evidence", "scale", "metric", "dataset", "split", "paper_value", "our_value", "low", "high", "seeds",
    "unit", "direction", "tolerance", "verdict", "reason", "runs", "source", "confidence",
)  # fmt: skip

SMOKE = "smoke proves the plumbing, not the claim"

Row = dict[str, Any]


def compare(
    project: Project,
    paper_id: str,
    scale: str,
    results: Path | str,
    run_ids: Mapping[str, Mapping[str, str]],
    requested: Collection[str] | None = None,
) -> list[Row]:
    """Return a row for every cell of every claim of a paper, and one more for every trend; none is left out.

    Parameters
    ----------
    run_ids
        section → name → run id, as the plan names them.
    requested
        ids of the runs that the plan asks for; a missing run outside of it is `not-run` because the plan leaves it out. None: all.

    Raises
    ------
    ConfigError
        for an expression that names an unknown run, task, metric or measurement.
    """
    return report(project, paper_id, scale, results, run_ids, requested)["rows"]


def report(
    project: Project,
    paper_id: str,
    scale: str,
    results: Path | str,
    run_ids: Mapping[str, Mapping[str, str]],
    requested: Collection[str] | None = None,
) -> dict[str, Any]:
    """Return `{"paper", "scale", "rows", "trends"}`: the rows of `compare`, and per trend its effects and arms seed by seed.

    Where the paper has tables of laptop runs, `tables` has their cells by table, row and column.
    """
    paper = project.paper(paper_id)
    comparison = _Comparison(project, paper, scale, Path(results), run_ids, requested)
    rows: list[Row] = []
    trends: dict[str, Any] = {}
    for claim in paper.claims:
        try:
            rows += [comparison.cell(claim, cell) for cell in cells(claim)]
            if claim.trend is not None:
                row, trends[claim.id] = comparison.trend(claim)
                rows.append(row)
        except ConfigError as error:
            raise where(paper, claim.id, error) from None
    result = {"paper": paper_id, "scale": scale, "rows": rows, "trends": trends}
    tables = {table.id: comparison.arms(table) for table in paper.tables if table.arms}
    return {**result, "tables": tables} if tables else result


class _Comparison:
    def __init__(
        self,
        project: Project,
        paper: Paper,
        scale: str,
        results: Path,
        run_ids: Mapping[str, Mapping[str, str]],
        requested: Collection[str] | None,
    ):
        self.project, self.paper, self.scale = project, paper, project.scale(scale)
        self.requested = requested
        self.level = project.settings.confidence_level
        self.evidence = Evidence(project, paper, scale, results, run_ids)

    def cell(self, claim: Claim, cell: Cell) -> Row:
        """Return the row of one cell of a claim."""
        row = self._row(claim, row_name(claim, cell), claim.evidence)
        tolerance = tolerance_of(claim, cell, self.project.settings.tolerances)
        row["paper_value"] = significant(cell.value) if cell.is_number else cell.value
        row["tolerance"] = verdicts.tolerance_text(tolerance) if cell.is_number else ""
        blocked, not_run = by_cell(claim.blocked, cell.keys), by_cell(claim.not_run, cell.keys)
        if blocked:
            return self._closed(row, claim, "blocked", blocked)
        if cell.ours is None:
            return self._closed(row, claim, "not-run", not_run or "no measurement is defined for it")
        try:
            outcome = self._outcome(cell.ours, "paper", self._paper_seeds(), claim.id)
        except Missing as missing:
            return self._closed(row, claim, "not-run", not_run or str(missing))
        values = [value / claim.unit_scale for value in outcome.values]
        ours = aggregate(values, claim.aggregate)
        bounds = interval(values, claim.aggregate, self.level)
        if bounds is None and outcome.interval is not None:
            bounds = tuple(sorted(bound / claim.unit_scale for bound in outcome.interval))
        self._put(row, ours, bounds, outcome)
        if not outcome.runs:
            row["seeds"] = None
        if self.scale.name == "smoke" and outcome.runs:
            return self._closed(row, claim, "not-run", SMOKE)
        if not cell.is_number:
            if cell.keys or claim.direction == "equal":
                return self._closed(row, claim, "not-run", not_run or "the paper gives no number to compare with")
            row["verdict"] = verdicts.ordering(ours, claim.direction, bounds)
            return self._reason(row, claim, "the paper gives an ordering; ours is the difference it speaks of")
        paper = float(cell.value)  # type: ignore[arg-type]
        erratum = claim.erratum is not None
        if claim.evidence == "structural":
            row["verdict"] = verdicts.structural(ours, paper, tolerance, claim.direction, erratum)
        else:
            row["verdict"] = verdicts.full(ours, paper, tolerance, claim.direction, bounds, erratum)
        return self._reason(row, claim, self._why(row["verdict"], claim, cell, ours, paper, tolerance.reason))

    def trend(self, claim: Claim) -> tuple[Row, dict[str, Any]]:
        """Return the row of a claim's trend, and its effects and arms seed by seed."""
        trend = claim.trend
        assert trend is not None
        row = self._row(claim, f"{claim.id}:trend", "trend")
        row.update(dataset=trend.dataset, split=trend.split, metric=trend.metric, unit=trend.unit)
        row.update(direction=trend.direction, tolerance=f"margin {trend.margin:g}")
        detail: dict[str, Any] = {
            "statement": trend.statement, "protocol": trend.protocol, "effect": trend.effect, "margin": trend.margin,
            "direction": trend.direction, "unit": trend.unit, "level": self.level, "effects": [], "seeds": [], "arms": {},
        }  # fmt: skip
        seeds = self.scale.seeds if self.scale.name == "smoke" else trend.seeds
        try:
            outcome = self._outcome(trend.effect, "laptop", seeds, claim.id)
        except Missing as missing:
            return self._closed(row, claim, "not-run", str(missing)), detail
        bounds = t_interval(outcome.values, self.level)
        self._put(row, aggregate(outcome.values), bounds, outcome)
        detail.update(effects=[significant(value) for value in outcome.values], seeds=list(outcome.seeds))
        for label, expression in trend.shows.items():
            try:
                arm = self._outcome(expression, "laptop", seeds, claim.id)
            except Missing:
                continue
            detail["arms"][label] = {
                "mean": significant(aggregate(arm.values)),
                "values": [significant(value) for value in arm.values],
            }
        if self.scale.name == "smoke":
            return self._closed(row, claim, "not-run", SMOKE), detail
        if bounds is None:
            return self._closed(row, claim, "not-run", "one value has no interval; the arms need several seeds"), detail
        idle = _idle(trend, detail["arms"])
        if idle or bounds[0] == bounds[1]:
            row["verdict"] = "inconclusive"
            observation = (
                f"{', '.join(idle)} learned nothing (floor {trend.floor:g})"
                if idle
                else "every seed gives the same number"
            )
            return self._reason(row, claim, f"{observation}: the comparison says nothing"), detail
        row["verdict"] = verdicts.trend(*bounds, trend.margin, trend.direction)
        side = {"reproduced": "beyond", "contradicted": "on the other side of", "inconclusive": "across"}[
            row["verdict"]
        ]
        why = f"the {self.level * 100:g} % interval lies {side} the margin {trend.margin:g} ({trend.direction})"
        return self._reason(row, claim, why), detail

    def arms(self, table: Table) -> dict[str, dict[str, dict[str, Any]]]:
        """Return the cells of a table of laptop runs: mean and values by seed, or the reason why there are none."""
        seeds = self.scale.seeds if self.scale.name == "smoke" else self.paper.seeds.get("laptop", self.scale.seeds)
        shown: dict[str, dict[str, dict[str, Any]]] = {}
        for row, columns in table.arms.items():
            shown[row] = {}
            for column, expression in columns.items():
                try:
                    values = self._outcome(expression, "laptop", seeds).values
                    known = {"mean": significant(aggregate(values)), "values": [significant(value) for value in values]}
                except Missing as missing:
                    known = {"missing": str(missing)}
                shown[row][column] = known
        return shown

    def _outcome(self, expression: str, section: str, seeds: int, claim: str | None = None) -> Outcome:
        """Evaluate; `Missing` tells how to make a result that the plan leaves out."""
        runs = self.evidence.runs(expression, section)
        try:
            return self.evidence.look(expression, section, seeds)
        except Missing:
            if self.requested is not None and any(run not in self.requested for run in runs):
                only = "quick=false" if claim is None else f"claims={claim}"
                call = f"snakemake --config scale={self.scale.name} papers={self.paper.id} {only}"
                raise Missing(f"not asked for: it is not among the claims of this call (`{call}` makes it)") from None
            raise

    def _paper_seeds(self) -> int:
        if self.scale.name == "paper":
            return self.paper.seeds.get("paper", self.scale.seeds)
        return self.scale.seeds

    def _row(self, claim: Claim, name: str, evidence: str) -> Row:
        row: Row = dict.fromkeys(COLUMNS)
        row.update(paper=self.paper.id, claim=name, evidence=evidence, scale=self.scale.name, metric=claim.metric)
        row.update(dataset=claim.dataset, split=claim.split, unit=claim.unit, direction=claim.direction, runs="")
        row.update(source=claim.source, confidence=claim.confidence, tolerance="", reason="")
        return row

    @staticmethod
    def _put(row: Row, ours: float, bounds: tuple[float, ...] | None, outcome: Outcome) -> None:
        row["our_value"] = significant(ours)
        if bounds is not None:
            row["low"], row["high"] = (significant(bound) for bound in bounds)
        row["seeds"] = len(outcome.values)
        row["runs"] = " ".join(outcome.runs)

    def _closed(self, row: Row, claim: Claim, verdict: str, reason: str) -> Row:
        row["verdict"] = verdict
        return self._reason(row, claim, reason)

    @staticmethod
    def _reason(row: Row, claim: Claim, reason: str) -> Row:
        notes = []
        if claim.reference and row["evidence"] != "trend":
            notes.append("reference, not the paper's own claim")
        if claim.derived and row["evidence"] != "trend":
            notes.append("derived, not printed by the paper")
        row["reason"] = " ".join("; ".join([*notes, str(reason)]).split())
        return row

    @staticmethod
    def _why(verdict: str, claim: Claim, cell: Cell, ours: float, paper: float, tolerance: str) -> str:
        if verdict == "match":
            return tolerance
        if verdict == "paper-inconsistent":
            return str(claim.erratum)
        side = "above" if ours > paper else "below"
        gap = f"{abs(ours / paper - 1) * 100:.3g} % {side}" if paper else f"{abs(ours):.3g} {side}"
        noise = "the seeds' interval holds the paper's number; " if verdict == "within-noise" else ""
        explain = by_cell(claim.explain, cell.keys)
        return f"{noise}ours is {gap}" + (f": {explain}" if explain else "")


def _idle(trend: Trend, arms: dict[str, dict[str, Any]]) -> list[str]:
    """Return the arms whose mean score does not pass the trend's floor; numbers that a method reports are no scores."""
    if trend.floor is None:
        return []
    sign = 1 if trend.floor_direction == "above" else -1
    scores = [label for label in arms if not any(".reported." in name for name in names(trend.shows[label]))]
    return [label for label in scores if sign * arms[label]["mean"] <= sign * trend.floor]
