"""Checks every name in the claims, tables and figures of a paper before anything runs. Imports no torch."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from replica.claims.cells import cells
from replica.claims.expressions import names, split_list, split_run
from replica.config.patterns import NAME, PART, parts, pattern
from replica.config.schema import Claim, Figure, Paper
from replica.errors import ConfigError, nearest

#: Numbers that every run counts, `runs.<run>.counts.<key>`.
COUNTS = ("total_parameters", "trainable_parameters")
#: Numbers of a run with `measure: {latency: true}`, `runs.<run>.measures.<key>`, and those of its export to onnxruntime.
MEASURES = (
    *COUNTS, "stored_bytes", "batch_size", "length", "latency_median_ms", "latency_mean_ms", "latency_p10_ms", "latency_p90_ms",
    "latency_samples_per_second", "latency_runs", "latency_threads", "latency_batch", "latency_length",
)  # fmt: skip
ONNX_MEASURES = (
    "onnx_bytes", "onnx_fp32_bytes", "onnx_threads", "onnx_int8_products", "latency_onnx_speedup", "latency_onnx_median_ms",
    "latency_onnx_fp32_median_ms", "latency_onnx_samples_per_second", "latency_onnx_fp32_samples_per_second",
)  # fmt: skip
#: Numbers of each line of a run's history, `history.<run>.<key>`; methods add their own.
HISTORY = ("step", "epoch", "loss", "learning_rate", "grad_norm")


@dataclass(frozen=True)
class Names:
    """The names that a paper's expressions may use; `*` in a key is any text.

    `measurements` gives the keys below each measurement. `runs` gives by section and run the keys below each first part of a run's
    number: a task that it is scored on, `counts`, `measures`, `reported`, and `history` for the lines of its history. `tasks` are all
    tasks of the project.
    """

    measurements: Mapping[str, Collection[str]]
    runs: Mapping[str, Mapping[str, Mapping[str, Collection[str]]]]
    tasks: Collection[str]


def check_names(paper: Paper, known: Names) -> None:
    """Raise ConfigError with file, key and the nearest name where an expression or table of the paper uses an unknown name."""
    for key, expression, section in _expressions(paper):
        with _at(paper, key):
            for name in sorted(names(expression)):
                _check(name, known, [section])
    ids = {claim.id: claim for claim in paper.claims}
    for table in paper.tables:
        for claim in table.claims:
            if claim not in ids:
                raise ConfigError(f"{paper.file}: tables.{table.id}: unknown claim '{claim}'{nearest(claim, ids)}")
    for figure in paper.figures:
        for label, entry in figure.series.items():
            with _at(paper, f"figures.{figure.id}.series.{label}"):
                _check_shape(figure, entry)
                for text in entry.values() if isinstance(entry, dict) else [entry]:
                    for name in () if text in ids else _figure_names(text):
                        space, _, rest = name.partition(".")
                        if space in ("ours", "paper"):
                            _check_cell(name, rest, ids)
                        else:
                            _check(name, known, list(known.runs))


class _at:
    """Puts the file and the key in front of an error."""

    def __init__(self, paper: Paper, key: str):
        self.where = f"{paper.file}: {key}"

    def __enter__(self) -> None:
        """Start the block."""

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, ConfigError):
            raise ConfigError(f"{self.where}: {error}") from None


def _expressions(paper: Paper) -> Iterator[tuple[str, str, str]]:
    """Yield key, expression and section of runs of every claim's cells and trend, and of the tables of laptop runs."""
    for claim in paper.claims:
        with _at(paper, f"claims.{claim.id}"):
            for key, name in _keys_of_cells(claim):
                known = {".".join(cell.keys[:depth]) for cell in cells(claim) for depth in range(1, len(cell.keys) + 1)}
                if name not in known:
                    raise ConfigError(f"{key}: no cell has the key '{name}'{nearest(name, known)}")
            for cell in cells(claim):
                if cell.ours is not None:
                    yield f"claims.{claim.id}.ours", cell.ours, "paper"
        if claim.trend is not None:
            yield f"claims.{claim.id}.trend.effect", claim.trend.effect, "laptop"
            for arm, expression in claim.trend.shows.items():
                yield f"claims.{claim.id}.trend.shows.{arm}", expression, "laptop"
    for table in paper.tables:
        for row, columns in table.arms.items():
            for column, expression in columns.items():
                yield f"tables.{table.id}.arms.{row}.{column}", expression, "laptop"


def _keys_of_cells(claim: Claim) -> Iterator[tuple[str, str]]:
    for key in ("tolerances", "not_run", "blocked", "explain"):
        entry = getattr(claim, key)
        yield from ((key, name) for name in entry) if isinstance(entry, Mapping) else ()


def _figure_names(text: str) -> Iterator[str]:
    """Yield every name of a list of expressions; a name with parts in braces keeps them. Raises ConfigError for what is none."""
    for expression in split_list(text):
        known = names(PART.sub("part", expression))
        if PART.search(expression):
            known = {name for match in NAME.finditer(expression) if "." in (name := match.group().replace("`", ""))}
        yield from sorted(known)


def _check_shape(figure: Figure, entry: dict[str, str] | str) -> None:
    """Raise ConfigError where a series has not what the figure's kind draws."""
    texts = list(entry.values()) if isinstance(entry, dict) else [entry]
    if figure.kind == "heatmap":
        if isinstance(entry, dict) or not pattern(entry):
            raise ConfigError("a heat map takes a name with parts in braces")
        if "history." not in entry and "column" not in parts(entry):
            raise ConfigError(f"'{entry}': one part of a heat map's name must be {{column}}")
    elif figure.kind in ("scatter", "line") and isinstance(entry, dict):
        counts = [len(split_list(text)) for text in texts]
        if set(entry) == {"x", "y"}:
            if counts[0] != counts[1]:
                raise ConfigError(f"x and y give {counts[0]} and {counts[1]} points")
        elif wrong := next((text for text, count in zip(texts, counts, strict=True) if count != 2), None):
            raise ConfigError(f"'{wrong}' is not a point: give `x, y`")


def _check_cell(name: str, rest: str, claims: Mapping[str, Claim]) -> None:
    known = {f"{claim.id}.{cell.key}" if cell.keys else claim.id for claim in claims.values() for cell in cells(claim)}
    if not _fits(rest, known):
        raise ConfigError(f"'{name}' names no cell of a claim{nearest(rest, known)}")


def _check(name: str, known: Names, sections: list[str]) -> None:
    space, _, rest = name.partition(".")
    if space not in ("runs", "history"):
        _check_measurement(name, known)
        return
    runs = {section: known.runs[section] for section in sections}
    as_run = f"runs.{rest}"
    fitting = [
        section for section, entries in runs.items() if any(as_run.startswith(f"runs.{run}.") for run in entries)
    ]
    errors = []
    for section in fitting or sections[:1]:
        run, number = split_run(as_run, runs[section])
        try:
            _check_number(
                name, run, f"history.{number}" if space == "history" else number, runs[section][run], known.tasks
            )
            return
        except ConfigError as error:
            errors.append(error)
    raise errors[0]


def _check_measurement(name: str, known: Names) -> None:
    fitting = [measurement for measurement in known.measurements if name.startswith(f"{measurement}.")]
    if not fitting:
        hint = nearest(name.partition(".")[0], known.measurements)
        raise ConfigError(f"'{name}' names no measurement of the paper and no run (runs.<run>.<task>.<metric>){hint}")
    measurement = max(fitting, key=len)
    key, keys = name[len(measurement) + 1 :], known.measurements[measurement]
    if not _fits(key, keys):
        raise ConfigError(f"'{name}': measurement '{measurement}' gives no '{key}'{nearest(key, keys)}")


def _check_number(
    name: str, run: str, number: str, numbers: Mapping[str, Collection[str]], tasks: Collection[str]
) -> None:
    """Check the part after a run's name: `<task>.<metric>`, `counts.…`, `measures.…`, `reported.…` or `history.…`."""
    fitting = [first for first in (*numbers, *tasks) if number.startswith(f"{first}.")]
    first = max(fitting, key=len, default=number.partition(".")[0])
    key = number[len(first) + 1 :]
    if first not in numbers:
        if first == "measures":
            raise ConfigError(f"'{name}': run '{run}' is not measured; give it `measure: {{latency: true}}`")
        if first == "reported":
            raise ConfigError(f"'{name}': run '{run}' has no method that could report a number")
        if first in tasks:
            scored = ", ".join(task for task in numbers if task in tasks)
            raise ConfigError(f"'{name}': run '{run}' is not scored on task '{first}', only on {scored or 'none'}")
        raise ConfigError(f"'{name}' names no task{nearest(first, tasks)}")
    if not _fits(key, numbers[first]):
        owner = f"task '{first}' has no metric '{key}'" if first in tasks else f"run '{run}' gives no '{first}.{key}'"
        raise ConfigError(f"'{name}': {owner}{nearest(key, numbers[first])}")


def _fits(key: str, known: Collection[str]) -> bool:
    """Return whether a key, which may have parts in braces, is known; known keys may hold `*`."""
    if key in known:
        return True
    pattern = PART.sub("*", key)
    return any(
        ("*" in candidate and fnmatchcase(pattern, candidate)) or (pattern != key and fnmatchcase(candidate, pattern))
        for candidate in known
    )
