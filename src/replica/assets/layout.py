"""The hub's layout of data set repositories: which Parquet files hold a split of a configuration."""

from __future__ import annotations

import fnmatch
import re

from replica.config.yaml_files import parse_yaml
from replica.errors import AssetError, ConfigError


def declared_files(readme: str, config: str | None) -> dict[str, list[str]]:
    """Return file patterns by split as a repository's README declares them; empty where it does not."""
    if not readme.startswith("---"):
        return {}
    where = "the repository's README.md"
    try:
        facts = parse_yaml(readme[3:].split("\n---", 1)[0], f"{where}: front matter")
    except ConfigError as error:
        raise AssetError(str(error)) from None
    configs = (facts.get("configs") if isinstance(facts, dict) else None) or []
    if not isinstance(configs, list) or not all(isinstance(one, dict) for one in configs):
        raise AssetError(f"{where}: `configs` is no list of configurations: {configs!r:.100}")
    chosen = [one for one in configs if config is None or one.get("config_name") == config]
    if not chosen:
        return {}
    files = chosen[0].get("data_files") or []
    if not isinstance(files, list) or not all(isinstance(one, dict) and "split" in one for one in files):
        return {}
    declared = {}
    for one in files:
        paths = one.get("path")
        paths = [paths] if isinstance(paths, str) else paths
        if (
            not isinstance(one["split"], str)
            or not isinstance(paths, list)
            or not all(isinstance(p, str) for p in paths)
        ):
            raise AssetError(f"{where}: `data_files` names no path of a split in {one!r:.100}")
        declared[one["split"]] = paths
    return declared


_PART = re.compile(r"-(\d+)-of-(\d+)\.parquet$")


def stray_file(files: list[str], digests: list[str]) -> str:
    """Describe a file of a split that would give its rows twice; empty where there is none. `digests` are those of the files, in order.

    Such a file lies beside numbered parts and has no number, or one that another has; or it has no number and another's content.
    """
    parts: dict[tuple[str, str], str] = {}
    contents: dict[str, str] = {}
    for name in sorted(files, key=lambda name: _PART.search(name) is None):  # the parts first
        folder, part = name.rpartition("/")[0], _PART.search(name)
        if part and (first := parts.setdefault((folder, part[0]), name)) != name:
            return f"{name} is the same part as {first}"
        beside = next((first for (place, _), first in parts.items() if place == folder), None)
        if part is None and beside is not None:
            return f"{name} is no part of it, as {beside} is"
        digest = digests[files.index(name)]
        if (first := contents.setdefault(digest, name)) != name and digest and part is None:
            return f"{name} is a copy of {first}"
    return ""


def missing_parts(files: list[str]) -> str:
    """Describe the parts a split lacks by the numbers in its files' names (`train-00000-of-00002.parquet`); empty if whole."""
    parts = [(int(part[1]), int(part[2])) for name in files if (part := _PART.search(name))]
    wanted = {total for _, total in parts}
    if not parts or (len(wanted) == 1 and {number for number, _ in parts} >= set(range(*wanted))):
        return ""
    return f"it has {len(parts)} of {max(wanted)} parts"


def splits_of(files: list[str], readme: str, config: str | None) -> dict[str, list[str]]:
    """Return the Parquet files of each split, in order: as declared, else by the names that the hub gives."""
    parquet = sorted(name for name in files if name.endswith(".parquet"))
    declared = declared_files(readme, config)
    matches = {
        split: [name for name in parquet if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]
        for split, patterns in declared.items()
    }
    if any(matches.values()):
        return {split: names for split, names in matches.items() if names}
    by_name: dict[str, list[str]] = {}
    for name in parquet:
        *folders, last = name.split("/")
        if folders and folders[0] == config and len(folders) == 2:  # the converted branch: config/split/0000.parquet
            by_name.setdefault(folders[1], []).append(name)
        elif "/".join(folders) in {config or "data", "data", ""} and "-" in last:
            by_name.setdefault(last.split("-", 1)[0], []).append(name)
    return by_name
