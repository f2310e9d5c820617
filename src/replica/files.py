"""Files written whole or not at all, and their hashes."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import math
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from replica.errors import ReplicaError, ResultError

#: Seconds that the clocks of a file server and of a node may differ.
CLOCKS = 60


def sha256_file(path: Path | str) -> str:
    """Return the hex sha256 of a file's bytes."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Give a temporary name in the folder of `path`, moved into place when the block ends well and removed when it does not.

    The content is on the disk before the name is: after a power cut there is the old file or the new one, whole.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    descriptor, name = tempfile.mkstemp(prefix=_prefix(path), dir=path.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        os.chmod(name, 0o666 & ~_umask())
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """Give an empty temporary folder that takes the place of `path` (a folder, a link or a file) when the block ends well.

    Old and new are exchanged in one step, and the new content is on the disk before: at no moment is neither there.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    temporary = Path(tempfile.mkdtemp(prefix=_prefix(path), dir=path.parent))
    temporary.chmod(0o777 & ~_umask())
    try:
        yield temporary
        for item in [*temporary.rglob("*"), temporary]:
            _sync(item)
        if os.path.lexists(path):
            _exchange(temporary, path)
        else:
            os.replace(temporary, path)
        _sync(path.parent)
    finally:
        _remove(temporary)


@contextmanager
def scratch_folder(path: Path | str) -> Iterator[Path]:
    """Give an empty folder beside `path` for what is made on the way to it; it is removed at the end, or by the next writer."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    folder = Path(tempfile.mkdtemp(prefix=_prefix(path), dir=path.parent))
    try:
        yield folder
    finally:
        _remove(folder)


def remove_folder(path: Path | str) -> None:
    """Remove a folder whose parts are read as a whole: it leaves its name in one step, before its contents go."""
    path = Path(path)
    _sweep(path)
    if path.exists():
        aside = Path(tempfile.mkdtemp(prefix=_prefix(path), dir=path.parent))
        os.replace(path, aside)
        _remove(aside)


def check_dates(paths: Iterable[Path | str]) -> None:
    """Raise ResultError for an input dated in the future: whatever is made from it would be older, and thrown away when it is done."""
    for path in paths:
        ahead = os.stat(path).st_mtime - time.time()
        if ahead > CLOCKS:
            raise ResultError(
                f"{path}: dated {ahead:.0f} s in the future of this machine's clock, so that what is made from it would be thrown "
                f"away as older; set the clock right, or `touch {path}`"
            )


def plain_file(folder: Path | str, name: str) -> Path:
    """Return the path of a file in a folder that is to be packed, hashed or copied under its name.

    Raises ResultError where the name leads out of the folder or through a symbolic link in it. The folder itself may lie behind one.
    """
    path = Path(folder) / name
    if Path(name).is_absolute() or path.resolve() != Path(folder).resolve() / name:
        raise ResultError(
            f"{path}: leads out of {folder} or through a link, and no link is followed; put the file itself there"
        )
    return path


def remove_leftovers(path: Path | str) -> list[Path]:
    """Remove and return what this module left next to `path` in processes that were killed, on whichever machine.

    Only for a path that no other process writes now.
    """
    return _sweep(Path(path), lambda host, process: True)


def _sweep(path: Path, chosen: Callable[[str, int], bool] | None = None) -> list[Path]:
    """Remove the leftovers next to `path` of the chosen hosts and processes: those of this machine that have ended, by default."""
    name = re.compile(rf"{re.escape(f'.{path.name}.')}([0-9a-f]{{8}})-([0-9]+)\.[a-z0-9_]{{8}}")
    chosen = chosen or (lambda host, process: host == _host() and not is_alive(process))
    leftovers = [
        item
        for item in sorted(path.parent.glob(".*"))
        if (match := name.fullmatch(item.name)) and chosen(match[1], int(match[2]))
    ]
    for item in leftovers:
        _remove(item)
    return leftovers


def _prefix(path: Path) -> str:
    """Return how the names of what is written for `path` begin: with this machine and process."""
    return f".{path.name}.{_host()}-{os.getpid()}."


@cache
def _host() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def is_alive(pid: int) -> bool:
    """Return whether a process of this machine has this number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _remove(path: Path) -> None:
    """Remove a file, a link or a folder, or what there is of it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Have the system write a file or folder to the disk, where its file system can."""
    if path.is_symlink():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def _exchange(temporary: Path, path: Path) -> None:
    """Exchange two names in one step; where the system cannot, the old one goes aside first, and comes back if the new one fails."""
    exchange = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if exchange is not None:
        at, both = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
        if exchange(at, os.fsencode(temporary), at, os.fsencode(path), both) == 0:
            return
        if ctypes.get_errno() not in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(path))
    aside = Path(tempfile.mkdtemp(prefix=_prefix(path), dir=path.parent))
    aside.rmdir()
    os.replace(path, aside)
    try:
        os.replace(temporary, path)
    except OSError:
        os.replace(aside, path)
        raise
    _remove(aside)


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


def read_json(path: Path | str, error: type[ReplicaError] = ResultError) -> Any:
    """Read a JSON file as `parse_json` does; an OSError passes as it is."""
    return parse_json(Path(path).read_bytes(), path, error)


def parse_json(text: str | bytes, where: Path | str, error: type[ReplicaError] = ResultError, again: str = "") -> Any:
    """Return the value of JSON (RFC 8259) in UTF-8; `where` names the file, `again` says how to make it again.

    Raises `error` for what is no JSON, a number beyond the floats (1e999), NaN, a key that comes twice, and nesting beyond the
    interpreter's stack.
    """
    try:
        text = text if isinstance(text, str) else text.decode("utf-8")
        return json.loads(text, parse_constant=_no_constant, parse_float=_in_range, object_pairs_hook=_no_duplicate)
    except RecursionError:
        reason = "its brackets are nested too deeply"
    except ValueError as fault:
        reason = str(fault)
    raise error(f"{where}: corrupt, not JSON ({reason}){f'; {again}' if again else ''}")


def read_result(
    path: Path | str,
    keys: Iterable[str] | Mapping[str, type] = (),
    again: str = "",
    optional: Mapping[str, type] = MappingProxyType({}),
) -> Any:
    """Read JSON that this project wrote as a result.

    Raises ResultError naming the file where it cannot be read, is no JSON (`parse_json`), or is no mapping with `keys`, whose values
    have the types given for them (an integer is a float too); `optional` gives types of keys that it may lack. `again` says how to make
    it again.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        raise ResultError(f"{path}: {reason}{f'; {again}' if again else ''}") from None
    return parse_result(content, path, keys, again, optional)


def parse_result(
    text: str | bytes,
    where: Path | str,
    keys: Iterable[str] | Mapping[str, type] = (),
    again: str = "",
    optional: Mapping[str, type] = MappingProxyType({}),
) -> Any:
    """Return what `read_result` does for a text that was read already; `where` names it in errors."""
    value = parse_json(text, where, again=again)
    remedy = f"; {again}" if again else ""
    missing = [key for key in keys if not isinstance(value, dict) or key not in value]
    if missing:
        raise ResultError(f"{where}: corrupt, lacks `{missing[0]}`{remedy}")
    for key, kind in {**(keys if isinstance(keys, Mapping) else {}), **optional}.items():
        if key in value and not has_type(value[key], kind):
            raise ResultError(
                f"{where}: corrupt, `{key}` is {json.dumps(value[key]):.40}, which is no {kind.__name__}{remedy}"
            )
    return value


def has_type(value: Any, kind: type) -> bool:
    """Return whether a value of JSON has a type; true and false are no numbers, an integer is a float too."""
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def finite(number: float) -> float | None:
    """Return a number as it may be stored: itself where it is finite, else None."""
    return number if math.isfinite(number) else None


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")


def _in_range(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text:.40} is beyond the range of numbers")
    return number


def _no_duplicate(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r:.60} comes twice")
    return value


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
