"""What is stored of the runs of a scale, seed by seed: of this checkout, else what is pinned under version control."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from replica.claims.evidence import AGAIN
from replica.errors import ResultError
from replica.files import read_result

_SEED = re.compile(r"seed(\d+)")


@dataclass(frozen=True)
class StoredSeed:
    """One seed of a run: its manifest, scores, measures and history; each empty where it is not there."""

    seed: int
    folder: Path
    pinned: bool = False

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """Facts of the finished training: specification, versions, hardware, seconds, files with sha256."""
        return self._read("manifest.json")

    @cached_property
    def metrics(self) -> dict[str, dict[str, Any]]:
        """Scores by task and metric: value, low, high, n, split."""
        return self._read("metrics.json").get("tasks", {})

    @cached_property
    def reported(self) -> dict[str, Any]:
        """What the methods said of the finished training."""
        return self._read("metrics.json").get("reported", {})

    @cached_property
    def measures(self) -> dict[str, Any]:
        """Cost of the finished model: bytes, latency in milliseconds."""
        return self._read("measures.json").get("measures", {})

    @cached_property
    def history(self) -> list[dict[str, Any]]:
        """The training's log, line by line."""
        path = self.folder / "history.jsonl"
        if not path.is_file():
            return []
        try:
            lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        except ValueError as error:
            raise ResultError(f"{path}: corrupt, not lines of JSON ({error}); {AGAIN}") from None
        return [line for line in lines if isinstance(line, dict)]

    def _read(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        return read_result(path, (), AGAIN) if path.is_file() else {}


@dataclass(frozen=True)
class StoredRun:
    """The stored seeds of a run, in order; none where the run was not made."""

    id: str
    seeds: list[StoredSeed] = field(default_factory=list)

    @property
    def pinned(self) -> bool:
        """Whether what is shown was pinned and is not a result of this checkout."""
        return any(seed.pinned for seed in self.seeds)

    @property
    def first(self) -> dict[str, Any]:
        """The first manifest there is."""
        return next((seed.manifest for seed in self.seeds if seed.manifest), {})


def stored_runs(results: Path, scale: str) -> dict[str, StoredRun]:
    """Return the runs stored below a results folder by id.

    A run of which anything lies in the checkout's own results is taken from there alone, so that a deleted file is missing and its
    pinned copy does not stand in for it; a run of which nothing lies there comes from `pinned/`.
    """
    found: dict[str, StoredRun] = {}
    for folder, pinned in ((results / "pinned" / scale / "runs", True), (results / scale / "runs", False)):
        for run in sorted(folder.glob("*")):
            seeds = []
            for path in run.glob("seed*"):
                number = _SEED.fullmatch(path.name)
                if number and any(path.iterdir()):
                    seeds.append(StoredSeed(int(number.group(1)), path, pinned))
            if seeds:
                found[run.name] = StoredRun(run.name, sorted(seeds, key=lambda seed: seed.seed))
    return found
