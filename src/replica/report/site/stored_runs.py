"""The stored seeds of a scale's runs: those of this checkout, else those pinned under version control."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from replica.claims.run_files import read_file, read_lines, stored_seeds
from replica.seals import SEAL, code_hash


@dataclass(frozen=True)
class StoredSeed:
    """One seed of a run: its manifest, scores, measures and history; each empty where it is not stored."""

    seed: int
    folder: Path
    pinned: bool = False

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """Facts of the finished training: specification, versions, hardware, seconds, files with sha256."""
        return read_file(self.folder / "manifest.json") or {}

    @cached_property
    def _metrics(self) -> dict[str, Any]:
        return read_file(self.folder / "metrics.json") or {}

    @property
    def metrics(self) -> dict[str, dict[str, Any]]:
        """Scores by task and metric: value, low, high, n, split."""
        return self._metrics.get("tasks", {})

    @property
    def reported(self) -> dict[str, Any]:
        """Numbers that the methods reported of the finished training."""
        return self._metrics.get("reported", {})

    @cached_property
    def measures(self) -> dict[str, Any]:
        """Cost of the finished model: bytes, latency in milliseconds."""
        return (read_file(self.folder / "measures.json") or {}).get("measures", {})

    @cached_property
    def history(self) -> list[dict[str, Any]]:
        """The training's log, line by line."""
        return read_lines(self.folder / "history.jsonl") or []


def facts_of(manifest: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (`versions`, `hardware` or `code`, line) of a manifest, without the host's name; other code than today's is marked."""
    for key in ("versions", "hardware"):
        for name, value in sorted((manifest.get(key) or {}).items()):
            if value is not None and name != "host":
                yield key, f"{name} {value}"
    code = manifest.get(SEAL, {}).get("code") or {}
    if code.get("sha256") == code_hash():
        yield "code", "code as in this checkout"
    else:
        commit = f" of commit {code['commit'][:12]}" if code.get("commit") else ""
        yield "code", f"⚠ other code than this checkout's{commit}" if code else "⚠ code not recorded"


@dataclass(frozen=True)
class StoredRun:
    """The stored seeds of a run, in order; none where the run was not made."""

    id: str
    seeds: list[StoredSeed] = field(default_factory=list)

    @property
    def pinned(self) -> bool:
        """Whether the seeds are pinned ones and no results of this checkout."""
        return any(seed.pinned for seed in self.seeds)

    @property
    def first(self) -> dict[str, Any]:
        """The first manifest there is."""
        return next((seed.manifest for seed in self.seeds if seed.manifest), {})


def stored_runs(results: Path, scale: str) -> dict[str, StoredRun]:
    """Return the runs stored below a results folder by id.

    A run with any file in the checkout's own results is taken from there alone, so that a deleted file is missing and its pinned
    copy does not replace it; every other run comes from `pinned/`.
    """
    stored: dict[str, StoredRun] = {}
    for runs, pinned in ((results / "pinned" / scale / "runs", True), (results / scale / "runs", False)):
        for run, seeds in stored_seeds(runs):
            stored[run] = StoredRun(run, [StoredSeed(seed, runs / run / f"seed{seed}", pinned) for seed in seeds])
    return stored
