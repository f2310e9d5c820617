"""Resume checkpoints below `state/`: sealed with hashes when complete, so that a half-written one is never resumed from."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from replica.errors import ResultError, TrainingError
from replica.files import remove_folder, sha256_file
from replica.seals import read_sealed, write_sealed

log = logging.getLogger(__name__)
SEAL = "complete.json"


def seal(folder: Path, origin: str) -> None:
    """Mark a checkpoint as complete: write the sha256 of each of its files, and the hash of what the training is made from."""
    files = {path.name: sha256_file(path) for path in sorted(folder.iterdir()) if path.name != SEAL}
    write_sealed(folder / SEAL, {"files": files}, origin=origin)


def latest(folder: Path, origin: str) -> Path | None:
    """Return the newest complete checkpoint below `folder`, or None.

    Unsealed folders (the process was killed while writing) are removed; all are where the newest has another `origin` (other settings,
    data, parents or code): training starts again. A sealed checkpoint whose bytes have changed is a TrainingError: a person must decide.
    """
    numbered = []
    for path in folder.glob("checkpoint-*"):
        match = re.fullmatch(r"checkpoint-(\d+)", path.name)
        if match is None:
            continue
        if not (path / SEAL).exists():
            log.warning("removing %s: it was not completely written", path)
            remove_folder(path)
            continue
        numbered.append((int(match.group(1)), path))
    if not numbered:
        return None
    newest = max(numbered)[1]
    remedy = f"remove {newest} to go on from an older one, or {folder} to start again"
    try:
        sealed = read_sealed(newest / SEAL, {"files": dict}, remedy)
    except ResultError as error:
        raise TrainingError(str(error)) from None
    if sealed["seal"].get("origin") != origin:
        log.warning("starting again: %s was made from other settings, data, parents or code than this call's", newest)
        for _, path in numbered:
            remove_folder(path)
        return None
    for name, expected in sealed["files"].items():
        file = newest / name
        actual = sha256_file(file) if file.exists() else "missing"
        if actual != expected:
            raise TrainingError(
                f"{file}: corrupt resume checkpoint (sha256 {actual[:12]}, sealed as {expected[:12]}); {remedy}"
            )
    return newest
