"""`manifest.json`: the sha256 of every file of a folder and the facts about them, so that a copy can be trusted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from replica.errors import AssetError
from replica.files import read_json, sha256_file, write_json

NAME = "manifest.json"


def write(folder: Path | str, **facts: Any) -> dict[str, Any]:
    """Hash every file below `folder`, write `manifest.json` with the hashes and `facts`, and return it.

    The manifest holds no date and no path outside the folder: the same files and facts give the same bytes.
    """
    folder = Path(folder)
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / NAME
    }
    value = {**facts, "files": files}
    write_json(folder / NAME, value)
    return value


def read(folder: Path | str) -> dict[str, Any]:
    """Read a folder's manifest; AssetError where there is none or it is not one."""
    path = Path(folder) / NAME
    try:
        value = read_json(path)
    except FileNotFoundError:
        raise AssetError(f"{path}: no manifest, so the folder is not a finished asset; retrieve it again") from None
    except (ValueError, OSError) as error:
        raise AssetError(f"{path}: cannot be read as a manifest ({error}); retrieve the asset again") from None
    files = value.get("files") if isinstance(value, dict) else None
    if not isinstance(files, dict) or not all(isinstance(fact, dict) and "sha256" in fact for fact in files.values()):
        raise AssetError(f"{path}: has no `files` with a sha256 each; retrieve the asset again")
    return value


def verify(folder: Path | str) -> dict[str, Any]:
    """Check that every file named in the manifest is there unchanged, and return the manifest.

    Raises
    ------
    AssetError
        naming the first file that is missing or whose sha256 differs, with both hashes.
    """
    folder = Path(folder)
    value = read(folder)
    for name, fact in value["files"].items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise AssetError(f"{folder / NAME}: names {name!r}, which lies outside the folder")
        if not path.is_file():
            raise AssetError(f"{path}: missing, though {NAME} names it; retrieve the asset again")
        actual = sha256_file(path)
        if actual != fact["sha256"]:
            raise AssetError(
                f"{path}: sha256 is {actual}, {NAME} says {fact['sha256']}: "
                "the file changed or is corrupt; retrieve it again"
            )
    return value
