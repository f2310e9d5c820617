"""Resume checkpoints below `state/`: sealed with hashes when complete, so that a half-written one is never resumed from."""

from __future__ import annotations

import logging
import re
import shutil
from pathlib import Path

from replica.errors import TrainingError
from replica.files import read_json, sha256_file, write_json

log = logging.getLogger(__name__)
SEAL = "complete.json"


def seal(folder: Path) -> None:
    """Mark a checkpoint as complete: write the sha256 of each of its files."""
    write_json(folder / SEAL, {path.name: sha256_file(path) for path in sorted(folder.iterdir()) if path.name != SEAL})


def latest(folder: Path) -> Path | None:
    """Return the newest complete checkpoint below `folder`, or None.

    Unsealed folders (the process was killed while writing) are removed. A sealed checkpoint whose bytes have changed is a
    TrainingError: a person must decide.
    """
    numbered = []
    for path in folder.glob("checkpoint-*"):
        match = re.fullmatch(r"checkpoint-(\d+)", path.name)
        if match is None:
            continue
        if not (path / SEAL).exists():
            log.warning("removing %s: it was not completely written", path)
            shutil.rmtree(path)
            continue
        numbered.append((int(match.group(1)), path))
    if not numbered:
        return None
    newest = max(numbered)[1]
    try:
        sealed = dict(read_json(newest / SEAL))
    except (ValueError, TypeError, OSError) as error:
        raise TrainingError(
            f"{newest / SEAL}: cannot be read ({error}); remove {newest} to go on from an older one, or {folder} to start again"
        ) from None
    for name, expected in sealed.items():
        file = newest / name
        actual = sha256_file(file) if file.exists() else "missing"
        if actual != expected:
            raise TrainingError(
                f"{file}: corrupt resume checkpoint (sha256 {actual[:12]}, sealed as {expected[:12]}); "
                f"remove {newest} to go on from an older one, or {folder} to start again"
            )
    return newest
