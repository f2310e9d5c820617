"""Files written whole or not at all, and their hashes."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from replica.errors import ResultError


def sha256_file(path: Path | str) -> str:
    """Return the hex sha256 of a file's bytes."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Give a temporary name in the folder of `path`, moved into place when the block ends well and removed when it does not."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        os.chmod(name, 0o666 & ~_umask())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """Give an empty temporary folder that takes the place of `path` when the block ends well."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    temporary.chmod(0o777 & ~_umask())
    try:
        yield temporary
        if path.exists():
            shutil.rmtree(path)
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_leftovers(path: Path | str) -> list[Path]:
    """Remove and return what `atomic_path` and `atomic_folder` left next to `path` in a process that was killed.

    Only for a path that no other process writes now.
    """
    path = Path(path)
    name = re.compile(rf"\.{re.escape(path.name)}\.[a-z0-9_]{{8}}")
    leftovers = [item for item in sorted(path.parent.glob(".*")) if name.fullmatch(item.name)]
    for item in leftovers:
        if item.is_dir():
            shutil.rmtree(item)
        else:
            item.unlink()
    return leftovers


def visible(folder: Path, pattern: str = "*") -> list[Path]:
    """Return what lies in a folder and fits a pattern, in order, without hidden files such as the `._x.yaml` of a Mac's archive."""
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))


def write_text(path: Path | str, text: str) -> None:
    """Write a text file in one step."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: Any) -> None:
    """Write JSON, indented and in one step; a number that is not finite is a ResultError that names its key."""
    for key, number in _not_finite(value, ()):
        raise ResultError(f"{path}: {'.'.join(key) or 'the value'} would be {number}, which is no result and not JSON")
    write_text(path, json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: Path | str) -> Any:
    """Read a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def read_result(path: Path | str, keys: Iterable[str] = (), again: str = "") -> Any:
    """Read JSON that this project wrote as a result.

    Raises ResultError naming the file where it is missing, is not JSON (NaN and infinities are not), or is no mapping with `keys`;
    `again` says how to make it again.
    """
    remedy = f"; {again}" if again else ""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ResultError(f"{path}: no such file{remedy}") from None
    except OSError as error:
        raise ResultError(f"{path}: cannot be read: {error.strerror}{remedy}") from None
    except ValueError as error:
        raise ResultError(f"{path}: corrupt, not JSON ({error}){remedy}") from None
    return parse_result(text, path, keys, again)


def parse_result(text: str, where: Path | str, keys: Iterable[str] = (), again: str = "") -> Any:
    """Return what `read_result` does for a text that was read already; `where` names it in errors."""
    remedy = f"; {again}" if again else ""
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except ValueError as error:
        raise ResultError(f"{where}: corrupt, not JSON ({error}){remedy}") from None
    missing = [key for key in keys if not isinstance(value, dict) or key not in value]
    if missing:
        raise ResultError(f"{where}: corrupt, lacks `{missing[0]}`{remedy}")
    return value


def finite(number: float) -> float | None:
    """Return a number as it may be stored: itself where it is finite, else None."""
    return number if math.isfinite(number) else None


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")


def _not_finite(value: Any, key: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], float]]:
    """Give key and value of every number in nested mappings and lists that is not finite."""
    if isinstance(value, float) and not math.isfinite(value):
        yield key, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _not_finite(inner, (*key, str(name)))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _not_finite(inner, (*key, str(index)))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
