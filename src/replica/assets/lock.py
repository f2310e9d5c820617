"""`replica lock`: ask the hub for the commits and digests of the registries' repositories, and write them to the lock."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from replica.assets import hub
from replica.assets.models import wanted_files
from replica.assets.sources import SourceUnavailable
from replica.config.asset_schema import DatasetEntry, HubSource, ModelEntry
from replica.config.hub_lock import FILE, HubLock, Locked, read_lock, write_lock
from replica.config.project import Project
from replica.errors import AssetError, ConfigError, nearest


@dataclass
class Outcome:
    """A line for each asset, and an error for each that could not be locked."""

    lines: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


def lock(project: Project, names: Iterable[str] = (), *, update: bool = False, check: bool = False) -> Outcome:
    """Lock the named assets, or every one that the hub has, and write config/hub.lock.yaml where something changed.

    A locked asset keeps its commit; where the digests of its files are still unknown, they are asked for at that commit. With
    `update` it moves to the hub's present commit. With `check` the file is not written: the lines name the repositories that have moved
    on, and the errors the commits and files that the hub no longer has. One asset's error does not stop the others.

    Raises
    ------
    ConfigError
        for a name that no registry has, or that the hub does not bring.
    AssetError
        where the hub cannot be reached; the lock is unchanged.
    """
    wanted = _wanted(project, list(names))
    before = read_lock(Path(project.root))
    now = HubLock(datasets=dict(before.datasets), models=dict(before.models))
    outcome = Outcome()
    latest: dict[tuple[str, str], str] = {}
    for kind, name, entry in wanted:
        entries = now.datasets if kind == "dataset" else now.models
        known = entries.get(name)
        known = known if known is not None and known.repo == entry.sources.hub.repo else None
        if known is not None and known.files and not update and not check:
            outcome.lines.append(f"{name}: {known.repo} stays at {known.revision}")
            continue
        try:
            if check:
                outcome.lines.append(_check(name, kind, entry, known, latest))
                continue
            commit = known.revision if known is not None and not update else _latest(entry, kind, latest)
            files = _files(entry, kind, commit)
        except SourceUnavailable as error:
            raise AssetError(f"{FILE} is unchanged: {error}") from None
        except AssetError as error:
            outcome.failed.append(f"{name}: {error}")
            continue
        entries[name] = Locked(repo=entry.sources.hub.repo, revision=commit, files=files)
        moved = known is not None and known.revision != commit
        how = f"moved from {known.revision} to" if moved and known else "is locked at" if known is None else "stays at"
        outcome.lines.append(f"{name}: {entry.sources.hub.repo} {how} {commit}, {len(files)} files")
    if now != before:
        write_lock(Path(project.root), now)
    return outcome


def _wanted(project: Project, names: list[str]) -> list[tuple[str, str, DatasetEntry | ModelEntry]]:
    """Return kind, name and entry of the assets to lock."""
    entries = [
        ("dataset", name, entry) for name, entry in project.datasets.items() if entry.sources.hub and entry.on_hub
    ]
    entries += [("model", name, entry) for name, entry in project.models.items() if entry.sources and entry.sources.hub]
    if not names:
        return entries
    known = {name for _, name, _ in entries}
    for name in names:
        if name in known:
            continue
        if name in project.datasets or name in project.models:
            raise ConfigError(f"'{name}' does not come from the hub: it has no commit to lock")
        raise ConfigError(f"no data set or model is named '{name}'{nearest(name, known)}")
    return [item for item in entries if item[1] in names]


def _latest(entry: DatasetEntry | ModelEntry, kind: str, commits: dict[tuple[str, str], str]) -> str:
    repo = entry.sources.hub.repo
    if (kind, repo) not in commits:
        commits[kind, repo] = hub.resolve_revision(repo, kind)
    return commits[kind, repo]


def _files(entry: DatasetEntry | ModelEntry, kind: str, commit: str) -> dict[str, str]:
    """Return the digests of the files that would be read at a commit; AssetError where they are not all there."""
    source = entry.sources.hub.model_copy(update={"revision": commit, "locked": {}})
    digests = hub.list_files(source, kind)
    if kind == "model":
        names = wanted_files(source, list(digests), f"hub {source.repo}")
    else:
        names = _split_files(source, digests, list(entry.splits))
    return {name: digests[name] for name in names if hub.is_digest(digests[name])}


def _split_files(source: HubSource, digests: dict[str, str], splits: list[str]) -> list[str]:
    with tempfile.TemporaryDirectory() as scratch:
        there = hub.splits_at(source, digests, Path(scratch))
    return [name for split in splits for name in hub.files_of_split(source, there, split, digests)]


def _check(
    name: str, kind: str, entry: DatasetEntry | ModelEntry, known: Locked | None, latest: dict[tuple[str, str], str]
) -> str:
    if known is None:
        return f"{name}: {entry.sources.hub.repo} is not locked (`replica lock {name}`)"
    source = entry.sources.hub.model_copy(update={"revision": known.revision, "locked": known.files})
    hub.list_files(source, kind)
    current = _latest(entry, kind, latest)
    if current != known.revision:
        return f"{name}: {known.repo} is there at {known.revision}; the hub has moved on to {current} (`replica lock --update {name}`)"
    return f"{name}: {known.repo} is there at {known.revision}, the hub's latest"
