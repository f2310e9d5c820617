"""The mirror source: a local folder laid out like the hub, named by the environment variable REPLICA_MIRROR."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from replica.assets import hub, layout
from replica.assets.sources import MIRROR_VARIABLE as VARIABLE
from replica.assets.sources import SourceUnavailable, safe_member
from replica.config.asset_schema import HubSource
from replica.errors import AssetError
from replica.files import read_json, sha256_file

MANIFEST = "MANIFEST.json"
#: Folder of the mirror with the wheels that the registries name.
WHEELS = "wheels"
#: Ends the name of a split that holds only a part of the official one.
PARTIAL = "_subset"


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
    _same_commit("datasets", source)
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
        if missing := layout.missing_parts(there[theirs]):
            raise SourceUnavailable(
                f"the mirror's {source.repo} split {theirs!r} is not complete: {missing}, so it is not taken for the official one"
            )
        found[split] = [folder / name for name in there[theirs]]
        for name, path in zip(there[theirs], found[split], strict=True):
            if PARTIAL in path.name and PARTIAL not in theirs:
                raise SourceUnavailable(
                    f"the mirror's {source.repo} has in {name} a part of split {theirs!r}, not the official one"
                )
            _as_locked(source, name, path)
            fact = facts.get(path.resolve())
            if fact is None:
                if facts and name not in source.locked:
                    notes[split] = "it is in no line of the mirror's MANIFEST.json"
                continue
            _check(path, fact, source, theirs)
            if fact.get("notes"):
                notes[split] = fact["notes"]
    return found, notes


def model_files(source: HubSource) -> tuple[Path, list[str]]:
    """Return the folder of a model's repository and the names of its files."""
    folder = repository("models", source.repo)
    _same_commit("models", source)
    return folder, sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def check_model_file(source: HubSource, name: str, path: Path) -> None:
    """Raise AssetError where a file of a model is another one than the lock or the mirror's MANIFEST.json says."""
    _as_locked(source, name, path)
    fact = _repositories().get(f"models/{source.repo}", {}).get("files", {}).get(name)
    if fact is not None and (found := sha256_file(path)) != fact.get("sha256"):
        raise AssetError(
            f"mirror {source.repo}: {name} has sha256 {found}, the mirror's MANIFEST.json says {fact.get('sha256')}: truncated or "
            "corrupt; copy it again"
        )


def commit(kind: str, repo: str) -> dict[str, str]:
    """Return `{"revision": commit}` of a repository of `datasets` or `models` where the mirror knows at which it was copied."""
    there = _repositories().get(f"{kind}/{repo}", {}).get("revision")
    return {"revision": there} if there else {}


def wheel(version: str, sha256: str) -> Path | None:
    """Return a wheel of a version that the mirror has, known by its sha256; None where there is no mirror or none such in it."""
    top = os.environ.get(VARIABLE, "")
    found = sorted((Path(top) / WHEELS).glob(f"*-{version}-*.whl")) if top else []
    return next((path for path in found if sha256_file(path) == sha256), None)


def _same_commit(kind: str, source: HubSource) -> None:
    """Refuse a repository that was copied at another commit than the locked one."""
    there = commit(kind, source.repo).get("revision")
    if there and source.revision and there != source.revision:
        raise SourceUnavailable(
            f"wrong revision: the mirror has {source.repo} at {there}, locked is {source.revision}; `replica mirror sync` brings it"
        )


def _as_locked(source: HubSource, name: str, path: Path) -> None:
    locked = source.locked.get(name)
    if locked and (found := hub.digest(path, locked)) != locked:
        raise AssetError(
            f"mirror {source.repo}: {name} is another file than {hub.LOCK} remembers: {found}, locked {locked}; copy it again"
        )


def _repositories() -> dict[str, dict[str, Any]]:
    """Return what the mirror's MANIFEST.json says of whole repositories: `models/owner/name` → revision and files."""
    path = root() / MANIFEST
    if not path.is_file():
        return {}
    try:
        return dict(read_json(path).get("repositories", {}))
    except (ValueError, TypeError, AttributeError) as error:
        raise AssetError(f"{path}: cannot be read as a mirror's manifest ({type(error).__name__}: {error})") from None


def _absent(source: HubSource, split: str, there: dict[str, list[str]]) -> str:
    name = f"{source.repo} {source.config}" if source.config else source.repo
    has = ", ".join(sorted(there)) or "none"
    message = f"the mirror's {name} has no split {split!r} (it has {has})"
    if f"{split}{PARTIAL}" in there:
        message += f"; {split}{PARTIAL} is a part of it and never taken for the official one"
    return message


def _facts(folder: Path) -> dict[Path, dict[str, Any]]:
    top = root()
    path = top / MANIFEST
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
