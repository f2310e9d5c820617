"""What the sources share: the error that lets the next one try, and one clear error for what a disk can do."""

from __future__ import annotations

import errno
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from replica.errors import AssetError

#: Names the folder of a mirror.
MIRROR_VARIABLE = "REPLICA_MIRROR"


class SourceUnavailable(AssetError):
    """This source does not have the asset now (no network, no such folder): the next may be asked."""


class BrokenOff(AssetError):
    """A download broke off; what arrived is kept, and the next try goes on from there."""


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Wait until no other process is in the block for the same lock file, which is left there empty."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextmanager
def disk_errors(what: str, folder: Path) -> Iterator[None]:
    """Turn an OSError of the block into one AssetError; a full disk is named as such."""
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise full_disk(what, folder) from None
        raise AssetError(f"{what}: cannot write {folder} ({error.strerror or error}); nothing was kept") from None


def full_disk(what: str, folder: Path) -> AssetError:
    """Return the error that says a disk is full."""
    return AssetError(f"{what}: no space left on the disk of {folder}; nothing was kept; free some and try again")


def is_full(error: BaseException) -> bool:
    """Tell whether an error says that a disk (or a quota) is full, also where the errno got lost on its way."""
    number = getattr(error, "errno", None)
    return number in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error)


def safe_member(name: str, where: str) -> str:
    """Return a relative path that stays inside its folder; AssetError for an absolute one, a drive or one with `..`."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or not path.parts or ":" in path.parts[0]:
        raise AssetError(f"{where}: refuses the path {name!r}, which leaves its folder")
    return path.as_posix()
