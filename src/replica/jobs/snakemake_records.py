"""Snakemake's own records of files, below `.snakemake` in a checkout."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any


class SnakemakeRecords:
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
