"""Small text files of a run's seeds: each in the seed's folder, or all packed in one file, `runs/<run>.json`, for version control.

A packed file is a JSON object from a file's path below the run's folder (`seed0/metrics.json`) to its content; the content of
`history.jsonl` is a list with one object per line. A run that has a folder is read from there alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from replica.errors import ResultError
from replica.files import read_result

#: The files of a seed that are packed; weights and predictions are too large for version control.
PACKED = ("manifest.json", "metrics.json", "measures.json", "history.jsonl")
#: How a stored result that cannot be read is made again.
AGAIN = "remove the file and run `snakemake` again"


def read_file(path: Path, key: str | None = None) -> Any:
    """Return the content of a seed's JSON file, or the value of `key` in it; None where the run has no such file.

    Raises ResultError where the file is corrupt or lacks `key`.
    """
    content = _content(path)
    if content is None or key is None:
        return content
    if not isinstance(content, dict) or key not in content:
        raise ResultError(f"{path}: corrupt, lacks `{key}`; {AGAIN}")
    return content[key]


def read_lines(path: Path) -> list[dict[str, Any]] | None:
    """Return the objects of a seed's JSON-lines file in order; None where the run has no such file, ResultError where it is corrupt."""
    if not path.is_file():
        lines = _content(path)
    else:
        try:
            lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        except ValueError as error:
            raise ResultError(f"{path}: corrupt, not lines of JSON ({error}); {AGAIN}") from None
    if lines is not None and not all(isinstance(line, dict) for line in lines):
        raise ResultError(f"{path}: corrupt, not lines of JSON; {AGAIN}")
    return lines


def stored_seeds(runs: Path) -> Iterator[tuple[str, list[int]]]:
    """Yield the id of every run of a `runs` folder with its seeds in order; runs without files are left out."""
    ids = {path.name if path.is_dir() else path.stem for path in runs.glob("[!.]*")}
    for run in sorted(ids):
        if (runs / run).is_dir():
            seeds = {path.name for path in (runs / run).glob("seed*") if path.is_dir() and any(path.iterdir())}
        else:
            seeds = {name.partition("/")[0] for name in read_result(runs / f"{run}.json", (), AGAIN)}
        numbers = sorted(int(name.removeprefix("seed")) for name in seeds if name.removeprefix("seed").isdecimal())
        if numbers:
            yield run, numbers


def pack(run: Path) -> str | None:
    """Return the text of the packed file of a run's folder, its numbers written as the run wrote them; None where no seed is finished.

    One number per line, and one line per line of a history, so that two commits compare line by line.
    """
    paths = [path for path in run.glob("seed*/*") if path.name in PACKED]
    entries = []
    for path in sorted(paths, key=lambda path: (len(path.parent.name), path.parent.name, path.name)):
        text = path.read_text(encoding="utf-8").rstrip("\n")
        if path.suffix == ".jsonl":
            read_lines(path)
            text = "[\n" + text.replace("\n", ",\n") + "\n]" if text else "[]"
        else:
            read_result(path, (), AGAIN)
        entries.append(f'"{path.relative_to(run).as_posix()}": {text}')
    return "{\n" + ",\n".join(entries) + "\n}\n" if entries else None


def _content(path: Path) -> Any:
    if path.is_file():
        return read_result(path, (), AGAIN)
    run = path.parents[1]
    packed = run.parent / f"{run.name}.json"
    if run.is_dir() or not packed.is_file():
        return None
    return read_result(packed, (), AGAIN).get(f"{path.parent.name}/{path.name}")
