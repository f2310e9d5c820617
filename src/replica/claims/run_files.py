"""Small text files of a run's seeds: each in the seed's folder, or all packed in one file, `runs/<run>.json`, for version control.

A packed file is a JSON object from a file's path below the run's folder (`seed0/metrics.json`) to its content; the content of
`history.jsonl` is a list with one object per line. A run that has a folder is read from there alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from replica import seals
from replica.errors import ResultError
from replica.files import parse_json, plain_file, read_result, sha256_file
from replica.paths import MANIFEST, METRICS, PREDICTIONS

#: The files of a seed that are packed; weights and predictions are too large for version control.
PACKED = ("manifest.json", "metrics.json", "measures.json", "history.jsonl")
#: How a stored result that cannot be read is made again.
AGAIN = "remove the file and run `snakemake` again"


def read_file(path: Path, key: str | None = None) -> Any:
    """Return the content of a seed's JSON file, or the value of `key` in it; None where the run has no such file.

    Raises ResultError where the file is corrupt, does not match its seal, lacks `key`, is of another run or seed than its folder, or
    was made from another manifest than the one beside it.
    """
    content = _content(path)
    if content is None:
        return None
    check_file(path, content)
    if key is None:
        return content
    if not isinstance(content, dict) or key not in content:
        raise ResultError(f"{path}: corrupt, lacks `{key}`; {AGAIN}")
    return content[key]


def check_file(path: Path, content: dict[str, Any], seed_folder: str | None = None) -> None:
    """Raise ResultError as `read_file` does for a sealed JSON file of a seed that was read already.

    `seed_folder` ends in `<run>/seed<n>` and is the folder that the file belongs into; by default the one that it lies in.
    """
    seal = seals.check(content, path, AGAIN)[seals.SEAL]
    run, seed = Path(seed_folder or path.parent).parts[-2:]
    if (content.get("run"), f"seed{content.get('seed')}") != (run, seed):
        raise ResultError(
            f"{path}: is of run {content.get('run')} seed {content.get('seed')}, not of {run} {seed}: files were exchanged; {AGAIN}"
        )
    if path.name == MANIFEST:
        return
    beside = _manifest_hash(path.with_name(MANIFEST))
    inputs = seal.get("inputs", {})
    if beside is None or inputs.get(MANIFEST) != beside:
        raise ResultError(
            f"{path}: was made from another {MANIFEST} than the one beside it: the run was made again since; {AGAIN}"
        )
    predictions = path.with_name(PREDICTIONS)
    if path.name == METRICS and predictions.is_file() and inputs.get(PREDICTIONS) != sha256_file(predictions):
        raise ResultError(f"{predictions}: is not the file that {METRICS} was computed from; {AGAIN}")


def read_lines(path: Path) -> list[dict[str, Any]] | None:
    """Return the objects of a seed's JSON-lines file in order; None where the run has no such file.

    Raises ResultError where it is corrupt or another than the manifest names.
    """
    if not path.is_file():
        lines = _content(path)
    else:
        try:
            text = path.read_text(encoding="utf-8")
        except ValueError as error:
            raise ResultError(f"{path}: corrupt, not lines of JSON ({error}); {AGAIN}") from None
        numbered = enumerate(text.splitlines(), start=1)
        lines = [parse_json(line, f"{path}, line {number}", again=AGAIN) for number, line in numbered if line.strip()]
    if lines is not None and not all(isinstance(line, dict) for line in lines):
        raise ResultError(f"{path}: corrupt, not lines of JSON; {AGAIN}")
    if lines is not None:
        named = (read_file(path.with_name(MANIFEST), "files") or {}).get(path.name, {}).get("sha256")
        packed = "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines)
        if named != (sha256_file(path) if path.is_file() else _sha256(packed)):
            raise ResultError(f"{path}: is not the file that {MANIFEST} names: edited or exchanged; {AGAIN}")
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
        plain_file(run, path.relative_to(run).as_posix())
        text = path.read_text(encoding="utf-8").rstrip("\n")
        if path.suffix == ".jsonl":
            read_lines(path)
            text = "[\n" + text.replace("\n", ",\n") + "\n]" if text else "[]"
        else:
            read_file(path)
        entries.append(f'"{path.relative_to(run).as_posix()}": {text}')
    return "{\n" + ",\n".join(entries) + "\n}\n" if entries else None


def _manifest_hash(path: Path) -> str | None:
    """Return the sha256 of a manifest's bytes, those that it was packed from where it is packed."""
    if path.is_file():
        return sha256_file(path)
    content = _content(path)
    return None if content is None else _sha256(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _content(path: Path) -> Any:
    if path.is_file():
        return read_result(path, (), AGAIN)
    run = path.parents[1]
    packed = run.parent / f"{run.name}.json"
    if run.is_dir() or not packed.is_file():
        return None
    return read_result(packed, (), AGAIN).get(f"{path.parent.name}/{path.name}")
