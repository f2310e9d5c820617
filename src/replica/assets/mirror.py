"""The mirror source: a local folder laid out like the hub, named by the environment variable REPLICA_MIRROR."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from replica.assets import layout
from replica.assets.sources import MIRROR_VARIABLE as VARIABLE
from replica.assets.sources import SourceUnavailable, safe_member
from replica.config.asset_schema import HubSource
from replica.errors import AssetError
from replica.files import read_json, sha256_file


def root() -> Path:
    """Return the mirror's folder; SourceUnavailable where none is named, AssetError where the name leads nowhere."""
    name = os.environ.get(VARIABLE, "")
    if not name:
        raise SourceUnavailable(f"{VARIABLE} is not set to the folder of a mirror")
    if not Path(name).is_dir():
        raise SourceUnavailable(f"{VARIABLE} is {name!r}, which is no folder")
    return Path(name)


def repository(kind: str, repo: str) -> Path:
    """Return the folder of a repository of `datasets` or `models`."""
    folder = root() / kind / safe_member(repo, "mirror")
    if not folder.is_dir():
        raise SourceUnavailable(f"the mirror has no {kind}/{repo}")
    return folder


def dataset_files(source: HubSource, splits: list[str]) -> tuple[dict[str, list[Path]], dict[str, str]]:
    """Find and check the files of the wanted splits; return them and the mirror's notes on them by split.

    Where the mirror has a MANIFEST.json, each file's sha256 is checked against it, and a split that it calls incomplete
    is never taken for the official one.
    """
    folder = repository("datasets", source.repo)
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.parquet"))
    readme = folder / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    there = layout.splits_of(files, text, source.config)
    facts = _facts(folder)
    found, notes = {}, {}
    for split in splits:
        theirs = source.splits.get(split, split)
        if theirs not in there:
            raise SourceUnavailable(_absent(source, theirs, there))
        found[split] = [folder / name for name in there[theirs]]
        for path in found[split]:
            fact = facts.get(path.resolve())
            if fact is None:
                continue
            _check(path, fact, source, theirs)
            if fact.get("notes"):
                notes[split] = fact["notes"]
    return found, notes


def _absent(source: HubSource, split: str, there: dict[str, list[str]]) -> str:
    name = f"{source.repo} {source.config}" if source.config else source.repo
    has = ", ".join(sorted(there)) or "none"
    message = f"the mirror's {name} has no split {split!r} (it has {has})"
    if f"{split}_subset" in there:
        message += f"; {split}_subset is a part of it and never taken for the official one"
    return message


def _facts(folder: Path) -> dict[Path, dict[str, Any]]:
    top = root()
    path = top / "MANIFEST.json"
    if not path.is_file():
        return {}
    try:
        entries = read_json(path)["splits"]
        return {(top / entry["path"]).resolve(): entry for entry in entries}
    except (ValueError, KeyError, TypeError) as error:
        raise AssetError(f"{path}: cannot be read as a mirror's manifest ({type(error).__name__}: {error})") from None


def _check(path: Path, fact: dict[str, Any], source: HubSource, split: str) -> None:
    if not fact.get("complete", True):
        raise SourceUnavailable(
            f"the mirror's {source.repo} split {split!r} is not complete: {fact.get('rows')} of "
            f"{fact.get('official_rows')} rows, so it is not taken for the official one"
        )
    rows = _rows(path, source)
    if "rows" in fact and rows != fact["rows"]:
        raise AssetError(
            f"mirror {source.repo}: {path.name} of split {split!r} has {rows} rows, the mirror's MANIFEST.json says "
            f"{fact['rows']}; copy it again"
        )
    found = sha256_file(path)
    if "sha256" in fact and found != fact["sha256"]:
        raise AssetError(
            f"mirror {source.repo}: {path.name} of split {split!r} has sha256 {found}, the mirror's MANIFEST.json says "
            f"{fact['sha256']}: truncated or corrupt; copy it again"
        )


def _rows(path: Path, source: HubSource) -> int:
    try:
        return pq.read_metadata(path).num_rows
    except pa.ArrowInvalid:
        raise AssetError(f"mirror {source.repo}: {path.name} is truncated or no Parquet file; copy it again") from None
