"""The mirror source: a local folder laid out like the hub, named by the environment variable REPLICA_MIRROR."""

from __future__ import annotations

import os
from collections import Counter
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
    facts = _facts()
    chosen, notes = {}, {}
    for split in splits:
        theirs = source.splits.get(split, split)
        if theirs not in there:
            raise SourceUnavailable(_absent(source, theirs, there))
        if missing := layout.missing_parts(there[theirs]):
            raise SourceUnavailable(
                f"the mirror's {source.repo} split {theirs!r} is not complete: {missing}, so it is not taken for the official one"
            )
        chosen[split] = [folder / name for name in there[theirs]]
        alike = Counter(path.stat().st_size for path in chosen[split])
        digests = [sha256_file(path) if alike[path.stat().st_size] > 1 else "" for path in chosen[split]]
        if stray := layout.stray_file(there[theirs], digests):
            raise AssetError(
                f"mirror {source.repo}: split {theirs!r} would have rows twice: {stray}; remove the one that is too many"
            )
        for name, path in zip(there[theirs], chosen[split], strict=True):
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
    return chosen, notes


def model_files(source: HubSource) -> tuple[Path, list[str]]:
    """Return the folder of a model's repository and the names of its files."""
    folder = repository("models", source.repo)
    _same_commit("models", source)
    return folder, sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def check_model_file(source: HubSource, name: str, path: Path) -> None:
    """Raise AssetError where a model's file differs from the lock or from the mirror's MANIFEST.json."""
    _as_locked(source, name, path)
    fact = _repositories().get(f"models/{source.repo}", {}).get("files", {}).get(name)
    if fact is not None and (actual := sha256_file(path)) != fact.get("sha256"):
        raise AssetError(
            f"mirror {source.repo}: {name} has sha256 {actual}, the mirror's MANIFEST.json says {fact.get('sha256')}: truncated or "
            "corrupt; copy it again"
        )


def commit(kind: str, repo: str) -> dict[str, str]:
    """Return `{"revision": commit}` of a repository of `datasets` or `models` where the mirror knows at which it was copied."""
    there = _repositories().get(f"{kind}/{repo}", {}).get("revision")
    return {"revision": there} if there else {}


def wheel(version: str, sha256: str) -> Path | None:
    """Return a wheel of a version that the mirror has, known by its sha256; None where there is no mirror or none such in it."""
    top = os.environ.get(VARIABLE, "")
    wheels = sorted((Path(top) / WHEELS).glob(f"*-{version}-*.whl")) if top else []
    return next((path for path in wheels if sha256_file(path) == sha256), None)


def _same_commit(kind: str, source: HubSource) -> None:
    """Refuse a repository that was copied at another commit than the locked one."""
    there = commit(kind, source.repo).get("revision")
    if there and source.revision and there != source.revision:
        raise SourceUnavailable(
            f"wrong revision: the mirror has {source.repo} at {there}, locked is {source.revision}; `replica mirror sync` brings it"
        )


def _as_locked(source: HubSource, name: str, path: Path) -> None:
    locked = source.locked.get(name)
    if locked and (actual := hub.digest(path, locked)) != locked:
        raise AssetError(
            f"mirror {source.repo}: {name} is another file than {hub.LOCK} remembers: {actual}, locked {locked}; copy it again"
        )


def _manifest(key: str) -> Any:
    """Return `splits` or `repositories` of the mirror's MANIFEST.json; None where it has none."""
    path = root() / MANIFEST
    if not path.is_file():
        return None
    try:
        return read_json(path, AssetError).get(key)
    except AttributeError as error:
        raise _unreadable(error) from None


def _unreadable(error: Exception) -> AssetError:
    return AssetError(f"{root() / MANIFEST}: cannot be read as a mirror's manifest ({type(error).__name__}: {error})")


def _repositories() -> dict[str, dict[str, Any]]:
    try:
        return {
            name: {**facts, "files": dict(facts.get("files", {}))}
            for name, facts in (_manifest("repositories") or {}).items()
        }
    except (ValueError, TypeError, AttributeError) as error:
        raise _unreadable(error) from None


def _absent(source: HubSource, split: str, there: dict[str, list[str]]) -> str:
    name = f"{source.repo} {source.config}" if source.config else source.repo
    has = ", ".join(sorted(there)) or "none"
    message = f"the mirror's {name} has no split {split!r} (it has {has})"
    if f"{split}{PARTIAL}" in there:
        message += f"; {split}{PARTIAL} is a part of it and never taken for the official one"
    return message


def _facts() -> dict[Path, dict[str, Any]]:
    """Return the entry of every file that the mirror's MANIFEST.json lists, by path."""
    if not (root() / MANIFEST).is_file():
        return {}
    try:
        return {(root() / entry["path"]).resolve(): entry for entry in _manifest("splits")}
    except (KeyError, TypeError, ValueError) as error:  # a name with NUL is a ValueError
        raise _unreadable(error) from None


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
    actual = sha256_file(path)
    if "sha256" in fact and actual != fact["sha256"]:
        raise AssetError(
            f"mirror {source.repo}: {path.name} of split {split!r} has sha256 {actual}, the mirror's MANIFEST.json says "
            f"{fact['sha256']}: truncated or corrupt; copy it again"
        )


def _rows(path: Path, source: HubSource) -> int:
    try:
        return pq.read_metadata(path).num_rows
    except pa.ArrowInvalid:
        raise AssetError(f"mirror {source.repo}: {path.name} is truncated or no Parquet file; copy it again") from None
