"""`manifest.json`: the sha256 of every file of a folder and the facts about them, so that a copy can be trusted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from replica import seals
from replica.errors import AssetError, ResultError
from replica.files import read_json, sha256_file, write_json

NAME = "manifest.json"


def write(folder: Path | str, seal: Mapping[str, Any] | None = None, **facts: Any) -> dict[str, Any]:
    """Hash every file below `folder`, write `manifest.json`, sealed, with the hashes and `facts`, and return it.

    `seal` are facts of the job for its seal (`seals.sealed`). The manifest holds no date and no path outside the folder: the same files
    and facts give the same bytes.
    """
    folder = Path(folder)
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / NAME
    }
    value = seals.sealed({**facts, "files": files}, **(seal or {}))
    write_json(folder / NAME, value)
    return value


def read(folder: Path | str) -> dict[str, Any]:
    """Read a folder's manifest; AssetError where there is none, it is not one, or it does not match its seal."""
    path = Path(folder) / NAME
    try:
        value = read_json(path, AssetError)
    except FileNotFoundError:
        raise AssetError(f"{path}: no manifest, so the folder is not a finished asset; make it again") from None
    except OSError as error:
        raise AssetError(f"{path}: cannot be read ({error.strerror}); make it again") from None
    files = value.get("files") if isinstance(value, dict) else None
    if not isinstance(files, dict) or not all(isinstance(fact, dict) and "sha256" in fact for fact in files.values()):
        raise AssetError(f"{path}: has no `files` with a sha256 each; make it again")
    try:
        return seals.check(value, path, "make the folder again")
    except ResultError as error:
        raise AssetError(str(error)) from None


def digest(folder: Path | str) -> str:
    """Return the sha256 of a folder's manifest, by which what is made from the folder names it."""
    return sha256_file(Path(folder) / NAME)


def verify(folder: Path | str, names: Iterable[str] | None = None, **identity: Any) -> dict[str, Any]:
    """Check that every file named in the manifest (or `names` of them) is there unchanged, and return the manifest.

    `identity` are facts that it must have (`run`, `seed`, `name`): another value is the manifest of another folder.

    Raises
    ------
    AssetError
        naming the first file that is missing or whose sha256 differs, with both hashes.
    """
    folder = Path(folder)
    value = read(folder)
    for key, wanted in identity.items():
        if value.get(key) != wanted:
            raise AssetError(
                f"{folder / NAME}: has {key} {value.get(key)!r}, not {wanted!r}: it belongs to another folder"
            )
    for name in value["files"] if names is None else names:
        path = folder / name
        if name not in value["files"]:
            raise AssetError(f"{path}: {NAME} does not name it; make the folder again")
        fact = value["files"][name]
        if not path.resolve().is_relative_to(folder.resolve()):
            raise AssetError(f"{folder / NAME}: names {name!r}, which lies outside the folder")
        if not path.is_file():
            raise AssetError(f"{path}: missing, though {NAME} names it; make it again")
        actual = sha256_file(path)
        if actual != fact["sha256"]:
            raise AssetError(
                f"{path}: sha256 is {actual}, {NAME} says {fact['sha256']}: "
                "the file changed or is corrupt; make it again"
            )
    return value
