"""Snakemake's records of how files were made: published with the files, and restored when they are adopted.

Snakemake plans a file again when its inputs, parameters or rule differ from its record. Without the record it could not know that an
adopted table was made for another version of a paper's claims. Snakemake's own class reads and writes the records; facts of the
machine (times, logs, command line) are left out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

from replica.jobs.snakemake_records import SnakemakeRecords
from replica.sharing.artifacts import Artifact

#: Name in the archive; no file of the artifact begins with a dot and is called so.
NAME = ".made.json"
#: Fields of a record that do not depend on the machine.
KEPT = ("rule", "input", "params", "code", "record_format_version", "software_stack_hash", "input_checksums")


class Records(SnakemakeRecords):
    """Snakemake's records below the root of a checkout, as they are published and restored."""

    def of(self, artifact: Artifact, names: Iterable[str]) -> bytes | None:
        """Return the records of an artifact's files and folders as JSON, or None where Snakemake has none."""
        if not (self.root / ".snakemake").is_dir():
            return None
        records = {}
        for name in _outputs(names):
            record = self.persistence._read_record(f"{artifact.folder}/{name}")
            if record is not None and record.rule:
                records[name] = {key: record.get(key) for key in KEPT}
        return json.dumps(records, indent=1, sort_keys=True).encode() if records else None

    def hold(self, artifact: Artifact, names: Iterable[str]) -> None:
        """Mark an artifact's files as unfinished until `restore`: Snakemake makes them again if this process is killed before."""
        for name in _outputs(names):
            self.persistence._mark_incomplete(f"{artifact.folder}/{name}", None)

    def restore(self, artifact: Artifact, names: Iterable[str], text: bytes | None) -> None:
        """Write an artifact's records; files without one lose the record of a former file in their place."""
        from snakemake.persistence import MetadataRecord

        known = json.loads(text) if text else {}
        self.persistence._clear_cache()
        for name in _outputs(names):
            key = f"{artifact.folder}/{name}"
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
    for facts in json.loads(text).values():
        for path, recorded in (facts.get("input_checksums") or {}).items():
            actual = sha256_of(path)
            if actual is not None and actual != recorded.rpartition(":")[2]:
                return path
    return None
