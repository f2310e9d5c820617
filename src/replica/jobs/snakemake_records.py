"""Snakemake's records of how files were made: published with the files, and restored when they are adopted.

Snakemake plans a file again when its inputs, parameters or rule differ from its record. Without the record it could not know that an
adopted table was made for another version of a paper's claims. Snakemake's own class reads and writes the records; facts of the
machine (times, logs, command line) are left out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from replica.errors import AssetError
from replica.files import parse_json

#: Name in the archive; no file of an artifact has it.
NAME = ".made.json"
#: Fields of a record that do not depend on the machine.
KEPT = ("rule", "input", "params", "code", "record_format_version", "software_stack_hash", "input_checksums")


class Records:
    """Snakemake's records below the root of a checkout."""

    def __init__(self, root: Path):
        self.root = root
        self._persistence: Any = None

    @property
    def persistence(self) -> Any:
        """Snakemake's own store of records; it makes its folder where there is none."""
        if self._persistence is None:
            from snakemake.persistence.file import FilePersistence

            self._persistence = FilePersistence(path=self.root.resolve() / ".snakemake")
        return self._persistence

    def unfinished(self, names: Iterable[str]) -> dict[str, float]:
        """Return the files that Snakemake has begun and not finished, with the time at which it submitted the job."""
        if not (self.root / ".snakemake" / "incomplete").is_dir():
            return {}
        times = {}
        for name in names:
            try:
                mark = Path(self.persistence._record_path(self.persistence._incomplete_path, name))
                times[name] = mark.stat().st_mtime
            except FileNotFoundError:
                continue
        return times

    def of(self, folder: str, names: Iterable[str]) -> bytes | None:
        """Return the records of files and folders below `folder` as JSON, or None where Snakemake has none."""
        if not (self.root / ".snakemake").is_dir():
            return None
        records = {}
        for name in _outputs(names):
            record = self.persistence._read_record(f"{folder}/{name}")
            if record is not None and record.rule:
                records[name] = {key: record.get(key) for key in KEPT}
        return json.dumps(records, indent=1, sort_keys=True).encode() if records else None

    def hold(self, folder: str, names: Iterable[str]) -> None:
        """Mark files below `folder` as unfinished until `restore`: Snakemake makes them again if this process is killed before."""
        for name in _outputs(names):
            self.persistence._mark_incomplete(f"{folder}/{name}", None)

    def restore(self, folder: str, names: Iterable[str], text: bytes | None) -> None:
        """Write the records of files below `folder`; files without one lose the record of a former file in their place."""
        from snakemake.persistence import MetadataRecord

        known = _parsed(text) if text else {}
        self.persistence._clear_cache()
        for name in _outputs(names):
            key = f"{folder}/{name}"
            if name in known:
                facts = {field: known[name].get(field) for field in KEPT}
                self.persistence._write_record(key, MetadataRecord(**facts, incomplete=False))
            else:
                self.persistence._delete_record(key)
            self.persistence._unmark_incomplete(key)


def _outputs(names: Iterable[str]) -> list[str]:
    """Return the possible outputs of rules: the files, and their folders."""
    names = list(names)
    folders = {parent.as_posix() for name in names for parent in Path(name).parents} - {"."}
    return sorted({*names, *folders})


def other_input(text: bytes, sha256_of: Callable[[str], str | None]) -> str | None:
    """Return the first recorded input that has another content now, or None.

    `sha256_of` gives a file's sha256 by its path below the root, or None where it is missing (then it is not compared).
    """
    for facts in _parsed(text).values():
        for path, recorded in (facts.get("input_checksums") or {}).items():
            actual = sha256_of(path)
            if actual is not None and actual != str(recorded).rpartition(":")[2]:
                return path
    return None


def _parsed(text: bytes) -> dict[str, dict[str, Any]]:
    """Return the facts of each file in an artifact's records; AssetError where they are none."""
    value = parse_json(text, NAME, AssetError)
    if not isinstance(value, dict) or not all(
        isinstance(facts, dict) and isinstance(facts.get("input_checksums") or {}, dict) for facts in value.values()
    ):
        raise AssetError(f"{NAME}: corrupt, not a mapping from a file to what Snakemake knows of it")
    return value
