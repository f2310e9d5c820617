"""Shared by the sources: the error that lets the next one try, a lock, errors of the disk, and safe paths."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from replica.errors import AssetError, disk_is_full, system_error

#: Names the folder of a mirror.
MIRROR_VARIABLE = "REPLICA_MIRROR"


class SourceUnavailable(AssetError):
    """This source does not have the asset now (no network, no such folder): the next may be asked."""


class BrokenOff(AssetError):
    """A download broke off; its first part is kept, and the next try continues it."""


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Wait until no other process is in the block for the same lock file, which is left there empty."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextmanager
def disk_errors(label: str, folder: Path) -> Iterator[None]:
    """Turn an OSError of the block into one AssetError that names the file; a full disk is named as such."""
    try:
        yield
    except OSError as error:
        if disk_is_full(error):
            raise full_disk(label, folder) from None
        raise AssetError(f"{label}: cannot write {folder} ({system_error(error)}); nothing was kept") from None


def full_disk(label: str, folder: Path) -> AssetError:
    """Return the error of a full disk."""
    return AssetError(f"{label}: no space left on the disk of {folder}; nothing was kept; free some and try again")


def safe_member(name: str, where: str) -> str:
    """Return a relative path that stays inside its folder; AssetError for an absolute one, a drive, one with `..`, or no file's name."""
    if "\0" in name or not name.isprintable():
        raise AssetError(f"{where}: refuses the path {name!r:.200}, which is no printable name of a file")
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or not path.parts or ":" in path.parts[0]:
        raise AssetError(f"{where}: refuses the path {name!r}, which leaves its folder")
    return path.as_posix()
