"""Seals: a JSON file that a job wrote carries the sha256 of its own content and of what it was made from, checked wherever it is read.

The seal is the key `seal` of the file's object: `sha256` over everything else in the file, and facts of the job: `inputs` (name →
sha256 of each file that it read), `settings`, and `code` (`code_facts`) where numbers depend on them. An edited, flipped or
truncated file does not match its own seal; a file that belongs to another run names other inputs. A seal protects against accidents,
not against a forger.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from replica.errors import ResultError
from replica.files import read_result, sha256_file, write_json

SEAL = "seal"
#: Packages and modules below this one that compute no number of a run.
_REPORTS = ("cli", "jobs", "report", "sharing", "claims", "plan", "config")


def sealed(content: Mapping[str, Any], **facts: Any) -> dict[str, Any]:
    """Return a file's content with its seal, which holds the facts too."""
    return {**_content(content), SEAL: {"sha256": _digest(content, facts), **facts}}


def write_sealed(path: Path | str, content: Mapping[str, Any], **facts: Any) -> None:
    """Write JSON with its seal, in one step."""
    write_json(path, sealed(content, **facts))


def read_sealed(path: Path | str, keys: Iterable[str] | Mapping[str, type] = (), again: str = "") -> dict[str, Any]:
    """Read JSON that a job sealed; ResultError as `read_result`, and where it has no seal or another content than its seal says."""
    return check(read_result(path, keys, again), path, again)


def check(content: Any, where: Path | str, again: str = "") -> dict[str, Any]:
    """Return the content of a sealed file that was read already; ResultError naming `where` unless it matches its seal."""
    remedy = f"; {again}" if again else ""
    seal = content.get(SEAL) if isinstance(content, dict) else None
    if not isinstance(seal, dict) or not isinstance(seal.get("sha256"), str):
        raise ResultError(f"{where}: has no seal, so nothing says that it is what a job wrote{remedy}")
    actual = _digest(content, {key: value for key, value in seal.items() if key != "sha256"})
    if actual != seal["sha256"]:
        raise ResultError(
            f"{where}: the sha256 of its content is {actual[:12]}, its seal says {seal['sha256'][:12]}: edited or corrupt{remedy}"
        )
    return content


@cache
def code_facts() -> dict[str, Any]:
    """Return `sha256` of this package's code, and `commit` of its checkout: None outside of one, with `+` where it has changes."""
    return {"commit": _commit(), "sha256": code_hash()}


@cache
def code_hash(whole: bool = False) -> str:
    """Return the sha256 of the source that computes numbers; `whole`: of all of this package."""
    root = Path(__file__).resolve().parent
    names = {path.relative_to(root): path for path in sorted(root.rglob("*.py"))}
    hashes = [
        [name.as_posix(), sha256_file(path)] for name, path in names.items() if whole or name.parts[0] not in _REPORTS
    ]
    return hashlib.sha256(json.dumps(hashes).encode()).hexdigest()


def _commit() -> str | None:
    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=Path(__file__).parent, capture_output=True, encoding="utf-8", check=True, timeout=20
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _content(content: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key != SEAL}


def _digest(content: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """Return the hash of content and facts in one canonical form, whatever the file's layout and order of keys."""
    value = [_content(content), facts]
    return hashlib.sha256(
        json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
    ).hexdigest()
