"""The numbers behind a figure: its expressions over ledger rows, measurements, runs and histories."""

from __future__ import annotations

from dataclasses import dataclass, field

from replica.claims.cells import cells, row_name
from replica.claims.compare import Row
from replica.claims.evidence import Evidence, Missing
from replica.claims.expressions import UnknownName, parse
from replica.claims.statistics import aggregate
from replica.config.schema import Paper
from replica.errors import ConfigError, nearest


@dataclass
class Point:
    """A point of a series: label, coordinates (x is None for bars) and the paper's value beside it, if it gives one."""

    label: str
    y: float
    x: float | None = None
    paper: float | None = None


@dataclass
class Series:
    """A label's points; `missing` says of each that could not be had why."""

    label: str
    points: list[Point] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


class Numbers:
    """Evaluates a figure's expressions.

    Names are those of claims (`<measurement>…`, `runs.<run>.<task>.<metric>` as the mean over seeds) and besides
    `ours.<claim>[.<cell>]` and `paper.<claim>[.<cell>]` for numbers of the ledger. A claim's own name stands for all its cells
    in a bar chart. `history.<run>.<key>` is a list, for lines.
    """

    def __init__(self, paper: Paper, rows: list[Row], evidence: Evidence):
        self.paper, self.evidence = paper, evidence
        self.claims = {claim.id: claim for claim in paper.claims}
        by_name = {row["claim"]: row for row in rows}
        self.cells: dict[str, Row] = {}
        self.of_claim: dict[str, list[tuple[str, Row]]] = {}
        self.by_expression: dict[str, Row] = {}
        for claim in paper.claims:
            for cell in cells(claim):
                row = by_name.get(row_name(claim, cell))
                if row is None:
                    raise ConfigError(f"claims.json holds no row {row_name(claim, cell)}; compare the paper again")
                self.cells[f"{claim.id}.{cell.key}" if cell.keys else claim.id] = row
                self.of_claim.setdefault(claim.id, []).append((cell.key or claim.id, row))
                if cell.ours and claim.unit_scale == 1:
                    self.by_expression.setdefault(_plain(cell.ours), row)

    def value(self, expression: str) -> float:
        """Return an expression's value; `Missing` where a number in it is not there."""
        known: dict[str, float] = {}
        seeds = self._seeds()
        for name in sorted(parse(expression).names):
            space, _, rest = name.partition(".")
            if space in ("ours", "paper") and rest in self.cells:
                number = self.cells[rest]["our_value" if space == "ours" else "paper_value"]
                if not isinstance(number, int | float):
                    raise Missing(f"{name}: {self.cells[rest]['reason']}")
                known[name] = float(number)
            elif space in ("ours", "paper"):
                raise UnknownName(f"'{name}' names no cell of a claim{nearest(rest, self.cells)}")
            else:
                quoted = ".".join(
                    part if part.replace("-", "").isidentifier() else f"`{part}`" for part in name.split(".")
                )
                known[name] = aggregate(self.evidence.look(quoted, self.evidence.section_of(name), seeds).values)
        return parse(expression).value(known)

    def printed(self, expression: str) -> float | None:
        """Return the paper's number for what an expression measures, where a claim's cell is made by the same one."""
        name = _plain(expression)
        row = self.cells.get(name.removeprefix("ours.")) if name.startswith("ours.") else self.by_expression.get(name)
        number = row["paper_value"] if row else None
        return float(number) if isinstance(number, int | float) else None

    def series(self, given: dict[str, dict[str, str] | str], kind: str) -> list[Series]:
        """Return the points of a figure's series."""
        found = []
        for label, entry in given.items():
            made = Series(label)
            if kind == "bar":
                self._bars(made, entry)
            elif isinstance(entry, dict) and set(entry) == {"x", "y"}:
                self._curve(made, entry["x"], entry["y"])
            else:
                self._points(made, entry)
            found.append(made)
        return found

    def _bars(self, made: Series, entry: dict[str, str] | str) -> None:
        if isinstance(entry, str) and entry in self.of_claim:
            for label, row in self.of_claim[entry]:
                ours, paper = row["our_value"], row["paper_value"]
                if ours is None:
                    made.missing.append(f"{row['claim']}: {row['reason']}")
                else:
                    made.points.append(Point(label, ours, paper=paper if isinstance(paper, int | float) else None))
            return
        if isinstance(entry, str):
            parts = split_list(entry)
            entry = {made.label: entry} if len(parts) == 1 else {str(i + 1): part for i, part in enumerate(parts)}
        for label, expression in entry.items():
            try:
                made.points.append(Point(label, self.value(expression), paper=self.printed(expression)))
            except Missing as missing:
                made.missing.append(str(missing))

    def _points(self, made: Series, entry: dict[str, str] | str) -> None:
        if isinstance(entry, str):
            parts = split_list(entry)
            entry = {made.label: entry} if len(parts) == 2 else {str(i + 1): f"{i}, {p}" for i, p in enumerate(parts)}
        for label, pair in entry.items():
            coordinates = split_list(pair)
            if len(coordinates) != 2:
                raise ConfigError(f"'{pair}' is not a point: give `x, y`")
            try:
                x, y = (self.value(part) for part in coordinates)
                made.points.append(Point(label, y, x))
            except Missing as missing:
                made.missing.append(str(missing))

    def _curve(self, made: Series, x: str, y: str) -> None:
        try:
            xs, ys = self._list(x), self._list(y)
        except Missing as missing:
            made.missing.append(str(missing))
            return
        if len(xs) != len(ys):
            raise ConfigError(f"series '{made.label}': x gives {len(xs)} points and y {len(ys)}")
        made.points = [Point("", b, a) for a, b in zip(xs, ys, strict=True)]

    def _list(self, text: str) -> list[float]:
        parts = split_list(text)
        if len(parts) == 1 and parts[0].startswith("history."):
            run, _, key = parts[0].removeprefix("history.").rpartition(".")
            return self.evidence.history(run, self.evidence.section_of(f"runs.{run}.{key}"), key)
        return [self.value(part) for part in parts]

    def _seeds(self) -> int:
        scale = self.evidence.project.scale(self.evidence.scale)
        return self.paper.seeds.get("paper", scale.seeds) if scale.name == "paper" else scale.seeds


def split_list(text: str) -> list[str]:
    """Split at commas outside parentheses."""
    parts, depth, at = [], 0, 0
    for index, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if character == "," and depth == 0:
            parts.append(text[at:index].strip())
            at = index + 1
    return [*parts, text[at:].strip()]


def _plain(expression: str) -> str:
    return expression.replace("`", "").replace(" ", "")
