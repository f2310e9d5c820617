"""config/hub.lock.yaml: at which commit every asset is read from the hub. Written by `replica lock`, read with the registries."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import Field

from replica.config.asset_schema import DatasetEntry, ModelEntry
from replica.config.strict import Name, Strict
from replica.config.validation import validate
from replica.config.yaml_files import read_yaml
from replica.errors import ConfigError, nearest
from replica.files import write_text

FILE = "config/hub.lock.yaml"
HEADER = """\
# At which commit each data set and model of the registries is read from the hub, and the digests of its files: sha256 of large
# ones, git's blob id of small ones. Written by `replica lock` (docs/assets.md), not by hand.
"""
Entry = TypeVar("Entry", DatasetEntry, ModelEntry)


class Locked(Strict):
    """One asset's repository at a commit."""

    repo: str
    revision: str = Field(pattern=r"^[0-9a-f]{40}$")
    files: dict[str, str] = Field({}, description="digest by file name; empty until the hub was asked")


class HubLock(Strict):
    """Locked assets by the registries' names."""

    datasets: dict[Name, Locked] = {}
    models: dict[Name, Locked] = {}


class _Dumper(yaml.SafeDumper):
    """Quotes also what this project's loader, but not YAML 1.1, reads as a number: a commit such as 12345e6."""


_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_lock(root: Path) -> HubLock:
    """Return a checkout's lock; an empty one where there is no file."""
    path = root / FILE
    return validate(HubLock, read_yaml(path) or {}, FILE) if path.is_file() else HubLock()


def write_lock(root: Path, lock: HubLock) -> None:
    """Write a checkout's lock, names in order."""
    value = {
        kind: {name: entry.model_dump(exclude_defaults=True) for name, entry in sorted(entries.items())}
        for kind, entries in (("datasets", lock.datasets), ("models", lock.models))
    }
    write_text(root / FILE, HEADER + yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=140))


def apply_lock(entries: dict[str, Entry], locked: dict[str, Locked], registry: str) -> dict[str, Entry]:
    """Return registry entries with their commits. One that is locked for another repository than it names now is not locked.

    Raises ConfigError for a locked name that the registry does not have, and for a commit in the registry.
    """
    for name in locked:
        if name not in entries:
            raise ConfigError(
                f"{FILE}: {registry}.{name}: config/{registry}.yaml has no such entry{nearest(name, entries)}"
            )
    return {name: _with_commit(name, entry, locked.get(name), registry) for name, entry in entries.items()}


def _with_commit(name: str, entry: Entry, locked: Locked | None, registry: str) -> Entry:
    hub = entry.sources.hub if entry.sources is not None else None
    if hub is None:
        return entry
    if hub.revision is not None or hub.locked:
        raise ConfigError(
            f"config/{registry}.yaml: {registry}.{name}: sources.hub: commits and digests belong in {FILE}; remove them here and "
            f"run `replica lock {name}`"
        )
    if locked is None or locked.repo != hub.repo:
        return entry
    at = hub.model_copy(update={"revision": locked.revision, "locked": locked.files})
    return entry.model_copy(update={"sources": entry.sources.model_copy(update={"hub": at})})
