"""The numbers behind a figure: its expressions over ledger rows, measurements, runs and histories."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from replica.claims.cells import cells, row_name
from replica.claims.compare import Row
from replica.claims.evidence import Evidence, Missing, shared_measure
from replica.claims.expressions import UnknownName, names, parse, split_list, split_run
from replica.claims.statistics import aggregate, t_interval
from replica.config.expand import expand_section
from replica.config.patterns import fill, matches, natural, pattern
from replica.config.schema import Figure, Paper
from replica.errors import ConfigError, nearest

#: Of a heat map's pattern: the part that makes columns; all others make rows.
COLUMN = "column"


@dataclass(frozen=True)
class Reading:
    """An expression's value: the mean over seeds with its interval (`over` seeds or examples), and the scored metrics."""

    value: float
    low: float | None = None
    high: float | None = None
    seeds: int = 0
    over: str = ""
    scored: frozenset[str] = frozenset()


@dataclass
class Point:
    """A point. `x` is None for bars and levels; `paper` is the paper's value next to a bar; `printed`: y is the paper's."""

    label: str
    y: Reading
    x: Reading | None = None
    paper: float | None = None
    printed: bool = False


@dataclass
class Series:
    """A label's points; `missing` gives the reason for each point left out. `named` are words at x = 0, 1, …"""

    label: str
    points: list[Point] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    named: list[str] = field(default_factory=list)


@dataclass
class Panel:
    """One panel of a heat map: `values` by row and column, None where nothing is stored."""

    label: str
    rows: list[str] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    values: list[list[float | None]] = field(default_factory=list)
    seeds: int = 0
    missing: list[str] = field(default_factory=list)


class Numbers:
    """Evaluates a figure's expressions.

    Names are those of claims (`<measurement>…`, `runs.<run>.<task>.<metric>` as the mean over seeds with its interval) and besides
    `ours.<claim>[.<cell>]` and `paper.<claim>[.<cell>]` for numbers of the ledger. A claim's own name gives all its cells
    in a bar chart. `history.<run>.<key>` is a list with a number for each line of the run's history, for lines and heat maps.
    A name with parts in braces, `runs.<run>.reported.<method>.layer{layer}`, gives all stored names that fit it.
    """

    def __init__(self, paper: Paper, rows: list[Row], evidence: Evidence):
        self.paper, self.evidence = paper, evidence
        self.level = evidence.project.settings.confidence_level
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
        self._seeds_of = _trend_seeds(paper)

    def read(self, expression: str) -> Reading:
        """Return an expression's value, seed by seed where it depends on them; `Missing` where a number in it is not there."""
        parsed = parse(expression)
        known: dict[str, Sequence[float]] = {}
        scored, seeds, own = set(), 0, None
        for name in sorted(parsed.names):
            space, _, rest = name.partition(".")
            if space in ("ours", "paper") and rest in self.cells:
                number = self.cells[rest]["our_value" if space == "ours" else "paper_value"]
                if not isinstance(number, int | float):
                    raise Missing(f"{name}: {self.cells[rest]['reason']}")
                known[name] = (float(number),)
            elif space in ("ours", "paper"):
                raise UnknownName(f"'{name}' names no cell of a claim{nearest(rest, self.cells)}")
            else:
                section = self.evidence.section_of(name)
                outcome = self.evidence.look(_quoted(name), section, self._seeds(name, section))
                known[name] = outcome.values
                own = outcome.interval
                if space == "runs":
                    shared = shared_measure(self.evidence.run_of(name, section)[2])
                    seeds = max(seeds, 0 if shared else len(outcome.seeds))
                    scored.add(self.evidence.scored_on(name, section))
        count = min((len(values) for values in known.values() if len(values) > 1), default=1)
        numbers = [
            parsed.value({name: values[seed if len(values) > 1 else 0] for name, values in known.items()})
            for seed in range(count)
        ]
        single = own if len(known) == 1 and _plain(expression) in known else None
        return self._reading(numbers, seeds, single, frozenset(filter(None, scored)))

    def printed(self, expression: str) -> float | None:
        """Return the paper's number of the cell that has the same expression, if there is one."""
        name = _plain(expression)
        row = self.cells.get(name.removeprefix("ours.")) if name.startswith("ours.") else self.by_expression.get(name)
        number = row["paper_value"] if row else None
        return float(number) if isinstance(number, int | float) else None

    def series(self, entries: dict[str, dict[str, str] | str], kind: str) -> list[Series]:
        """Return the points of a figure's series."""
        drawn = []
        for label, entry in entries.items():
            series = Series(label)
            if kind == "bar":
                self._bars(series, entry)
            elif isinstance(entry, dict) and set(entry) == {"x", "y"}:
                self._curve(series, entry["x"], entry["y"])
            elif isinstance(entry, str) and pattern(entry):
                self._along(series, entry)
            elif isinstance(entry, str) and len(split_list(entry)) == 1:
                self._add(series, label, entry)
            else:
                self._points(series, entry)
            drawn.append(series)
        return drawn

    def panels(self, figure: Figure) -> list[Panel]:
        """Return the panels of a heat map, one for each series."""
        panels = []
        for label, text in figure.series.items():
            if not isinstance(text, str) or not pattern(text):
                raise ConfigError(f"series '{label}': a heat map takes a name with parts in braces")
            panel = Panel(label)
            try:
                draw = self._over_time if "history." in text else self._grid
                draw(panel, text, figure.per_step)
            except Missing as missing:
                panel.missing.append(str(missing))
            panels.append(panel)
        rows = sorted({row for panel in panels for row in panel.rows}, key=natural)
        for panel in panels:  # the same rows in all panels, so that they line up
            if panel.rows:
                empty = [0.0 if figure.per_step else None] * len(panel.columns)
                known = dict(zip(panel.rows, panel.values, strict=True))
                panel.rows, panel.values = rows, [known.get(row, empty) for row in rows]
        return panels

    def _reading(
        self,
        values: Sequence[float],
        seeds: int,
        single: tuple[float, float] | None = None,
        scored: frozenset[str] = frozenset(),
    ) -> Reading:
        bounds, over = t_interval(values, self.level), "seeds"
        if bounds is None:
            bounds, over = single, "examples"
        low, high = bounds or (None, None)
        return Reading(aggregate(values), low, high, seeds, over if bounds else "", scored)

    def _add(self, series: Series, label: str, y: str, x: str | None = None) -> None:
        """Add a point, or the reason why it is missing."""
        try:
            printed = bool(names(y)) and all(name.startswith("paper.") for name in names(y))
            series.points.append(Point(label, self.read(y), self.read(x) if x is not None else None, printed=printed))
        except Missing as missing:
            series.missing.append(str(missing))

    def _bars(self, series: Series, entry: dict[str, str] | str) -> None:
        if isinstance(entry, str) and entry in self.of_claim:
            for label, row in self.of_claim[entry]:
                ours, paper = row["our_value"], row["paper_value"]
                if ours is None:
                    series.missing.append(f"{row['claim']}: {row['reason']}")
                else:
                    number = paper if isinstance(paper, int | float) else None
                    over = "" if row["low"] is None else "seeds"
                    reading = Reading(ours, row["low"], row["high"], row["seeds"] or 0, over)
                    series.points.append(Point(label, reading, paper=number))
            return
        if isinstance(entry, str):
            parts = split_list(entry)
            entry = {series.label: entry} if len(parts) == 1 else {str(i + 1): part for i, part in enumerate(parts)}
        for label, expression in entry.items():
            self._add(series, label, expression)
            if series.points and series.points[-1].label == label:
                series.points[-1].paper = self.printed(expression)

    def _points(self, series: Series, entry: dict[str, str] | str) -> None:
        if isinstance(entry, str):
            parts = split_list(entry)
            entry = {series.label: entry} if len(parts) == 2 else {str(i + 1): f"{i}, {p}" for i, p in enumerate(parts)}
        for label, pair in entry.items():
            coordinates = split_list(pair)
            if len(coordinates) != 2:
                raise ConfigError(f"'{pair}' is not a point: give `x, y`")
            self._add(series, label, coordinates[1], coordinates[0])

    def _curve(self, series: Series, x: str, y: str) -> None:
        if "history." in x + y:
            try:
                series.points = self._over_seeds(x, y)
            except Missing as missing:
                series.missing.append(str(missing))
            return
        xs, ys = split_list(x), split_list(y)
        if len(xs) != len(ys):
            raise ConfigError(f"series '{series.label}': x gives {len(xs)} points and y {len(ys)}")
        for a, b in zip(xs, ys, strict=True):
            self._add(series, "" if len(xs) > 1 else series.label, b, a)

    def _over_seeds(self, x: str, y: str) -> list[Point]:
        """Return a history's curve: x and y of each line that has both, as means over the run's seeds."""
        wanted = names(x) | names(y)
        if not all(name.startswith("history.") for name in wanted):
            raise ConfigError(f"'{x}', '{y}': only names of histories go with names of histories")
        first = sorted(wanted)[0]
        section = self.evidence.section_of(_as_run(first))
        seeds = self._seeds(_as_run(first), section)
        curves = [list(self._lines(wanted, section, seed)) for seed in range(seeds)]
        points = []
        for lines in zip(*curves, strict=False):
            xs, ys = ([parse(text).value(line) for line in lines] for text in (x, y))
            points.append(Point("", self._reading(ys, seeds), Reading(aggregate(xs))))
        return points

    def _lines(self, wanted: set[str], section: str, seed: int) -> Iterator[dict[str, float]]:
        stored = {name: self.evidence.lines(name, section, seed) for name in sorted(wanted)}
        if len({len(lines) for _, lines in stored.values()}) > 1:
            raise ConfigError(f"the histories behind {', '.join(stored)} have different lengths")
        for index in range(len(next(iter(stored.values()))[1])):
            line = {name: lines[index].get(key) for name, (key, lines) in stored.items()}
            if all(value is not None for value in line.values()):
                yield line

    def _expanded(self, text: str) -> list[tuple[dict[str, str], str]]:
        """Return the parts of every stored name that fits the pattern in `text`, and `text` with them filled in."""
        name = pattern(text) or ""
        section = self.evidence.section_of(_as_run(name))
        hits = matches(name, self.evidence.names(name, section))
        if not hits:
            raise Missing(f"no stored number fits {name}; rerun the run if it is older than this number")
        return [(hit, fill(text, hit)) for hit in hits]

    def _along(self, series: Series, text: str) -> None:
        """Add a point for every stored name that fits a pattern; x is the number in its part in braces."""
        try:
            expanded = self._expanded(text)
        except Missing as missing:
            series.missing.append(str(missing))
            return
        words = [" ".join(parts.values()) for parts, _ in expanded]
        if not all(word.isdigit() for word in words):
            series.named = words
        for index, (_, expression) in enumerate(expanded):
            self._add(series, words[index], expression, str(index) if series.named else words[index])

    def _grid(self, panel: Panel, text: str, _per_step: bool) -> None:
        """Fill a heat map's panel with means over seeds, rows by columns."""
        cells: dict[tuple[str, str], Reading] = {}
        for parts, expression in self._expanded(text):
            if COLUMN not in parts:
                raise ConfigError(f"'{text}': one part of a heat map's name must be {{{COLUMN}}}")
            row = " ".join(value for key, value in parts.items() if key != COLUMN) or panel.label
            cells[row, parts[COLUMN]] = self.read(expression)
        panel.rows = sorted({row for row, _ in cells}, key=natural)
        panel.columns = sorted({column for _, column in cells}, key=natural)
        panel.values = [
            [cells[row, column].value if (row, column) in cells else None for column in panel.columns]
            for row in panel.rows
        ]
        panel.seeds = max(cell.seeds for cell in cells.values())

    def _over_time(self, panel: Panel, text: str, per_step: bool) -> None:
        """Fill a heat map's panel from the first seed's history: rows by the parts in braces, columns by step."""
        expanded = self._expanded(text)
        name = next(iter(names(expanded[0][1])))
        section = self.evidence.section_of(_as_run(name))
        _, lines = self.evidence.lines(name, section)
        steps = [float(line["step"]) for line in lines]
        panel.columns = [f"{step:g}" for step in steps]
        for parts, expression in expanded:
            wanted = {each: self.evidence.lines(each, section)[0] for each in names(expression)}
            row: list[float | None] = []
            for line in lines:
                known = {each: line.get(key) for each, key in wanted.items()}
                whole = all(value is not None for value in known.values())
                row.append(parse(expression).value(known) if whole else None)  # type: ignore[arg-type]
            panel.rows.append(" ".join(parts.values()))
            panel.values.append(_growth(row, steps) if per_step else row)
        panel.seeds = 1

    def _seeds(self, name: str, section: str) -> int:
        """Return how many seeds a run has: those of the trends that read it, or the scale's."""
        scale = self.evidence.project.scale(self.evidence.scale)
        if scale.name == "paper":
            return self.paper.seeds.get("paper", scale.seeds)
        if scale.name == "smoke" or not name.startswith("runs."):
            return scale.seeds
        return self._seeds_of.get(self.evidence.run_of(name, section)[0], scale.seeds)


def _trend_seeds(paper: Paper) -> dict[str, int]:
    """Return by laptop run the most seeds that a trend of the paper reads of it."""
    entries, seeds = expand_section(paper, "laptop"), {}
    for trend in (claim.trend for claim in paper.claims if claim.trend):
        for text in (trend.effect, *trend.shows.values()):
            for name in names(text):
                if name.startswith("runs."):
                    run = split_run(name, entries)[0]
                    seeds[run] = max(seeds.get(run, 0), trend.seeds)
    return seeds


def _growth(counts: list[float | None], steps: list[float]) -> list[float | None]:
    """Return a count's growth per step since the line before; it starts at zero."""
    before, rates = (0.0, 0.0), []
    for count, step in zip(counts, steps, strict=True):
        now = before[1] if count is None else count
        rates.append((now - before[1]) / (step - before[0]))
        before = (step, now)
    return rates


def _as_run(name: str) -> str:
    return re.sub(r"^history\.", "runs.", name)


def _quoted(name: str) -> str:
    return ".".join(part if part.replace("-", "").isidentifier() else f"`{part}`" for part in name.split("."))


def _plain(expression: str) -> str:
    return expression.replace("`", "").replace(" ", "")
