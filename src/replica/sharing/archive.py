"""One artifact, one file: a tar whose bytes follow from the files' names and contents alone, and its careful unpacking."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import IO

from replica.errors import AssetError
from replica.files import plain_file

#: Time of every file in an archive and of every adopted file: 2000-01-01. One time for all, so that no adopted file is newer than
#: its outputs, in whatever order artifacts are adopted.
PUBLISHED_TIME = 946_684_800


class _Hashing:
    """A readable file that hashes (sha256) the bytes read from it."""

    def __init__(self, handle: IO[bytes]):
        self.handle = handle
        self.sha = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes."""
        data = self.handle.read(size)
        self.sha.update(data)
        return data


def pack(folder: Path, names: Iterable[str], extra: Mapping[str, bytes], path: Path) -> dict[str, str]:
    """Write files of a folder, and `extra` contents, into an uncompressed tar; returns the sha256 of every member's bytes.

    Owner, mode and time are the same for all and members are in order: equal files give an equal archive on every machine. ResultError
    for a name that leads out of the folder or through a link.
    """
    hashes: dict[str, str] = {}
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name in sorted([*names, *extra]):
            if name in extra:
                reader, size = _Hashing(BytesIO(extra[name])), len(extra[name])
                tar.addfile(_member(name, size), reader)
            else:
                with open(plain_file(folder, name), "rb") as handle:
                    reader = _Hashing(handle)
                    tar.addfile(_member(name, (folder / name).stat().st_size), reader)
            hashes[name] = reader.sha.hexdigest()
    return hashes


def unpack(path: Path, expected: Mapping[str, str], into: Path) -> None:
    """Unpack an archive into an empty folder, file by file, each held to its sha256.

    Raises
    ------
    AssetError
        naming archive and member: one that would leave the folder, is no plain file, is not expected, comes twice, is missing, or has
        another sha256 (with both); also where the archive is truncated or none. The caller removes the files unpacked until then.
    """
    try:
        with tarfile.open(path, "r:") as tar:
            members = tar.getmembers()
            _check_names(path, members, expected)
            for member in members:
                _write(path, tar, member, expected[member.name], into / member.name)
    except (tarfile.TarError, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise AssetError(f"{path}: truncated or no archive ({error})") from None


def _check_names(path: Path, members: list[tarfile.TarInfo], expected: Mapping[str, str]) -> None:
    seen = set()
    for member in members:
        name = PurePosixPath(member.name)
        if name.is_absolute() or ".." in name.parts or name.as_posix() != member.name:
            raise AssetError(
                f"{path}: member '{member.name}' climbs out of its folder; nothing was taken from the archive"
            )
        if not member.isreg():
            raise AssetError(f"{path}: member '{member.name}' is no plain file; nothing was taken from the archive")
        if member.name in seen:
            raise AssetError(f"{path}: member '{member.name}' comes twice; nothing was taken from the archive")
        if member.name not in expected:
            raise AssetError(
                f"{path}: member '{member.name}' is not one that was published; nothing was taken from the archive"
            )
        seen.add(member.name)
    missing = sorted(set(expected) - seen)
    if missing:
        raise AssetError(
            f"{path}: lacks '{missing[0]}', which was published with it; nothing was taken from the archive"
        )


def _write(path: Path, tar: tarfile.TarFile, member: tarfile.TarInfo, sha256: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    source = tar.extractfile(member)
    with open(target, "wb") as handle:
        while block := source.read(1 << 20):
            digest.update(block)
            handle.write(block)
    if digest.hexdigest() != sha256:
        raise AssetError(
            f"{path}: '{member.name}' has sha256 {digest.hexdigest()}, published was {sha256}: the archive changed or is corrupt"
        )


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = size, 0o644, PUBLISHED_TIME
    return member
