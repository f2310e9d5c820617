"""The working copy during publishing and adopting: one call at a time, no Snakemake at work in it, git able to commit."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from replica.errors import ReplicaError
from replica.files import parse_json
from replica.jobs.snakemake_lock import holders


class CheckoutError(ReplicaError):
    """The working copy is not ready for publishing or adopting."""


@contextmanager
def alone(root: Path, verb: str) -> Iterator[None]:
    """Hold the checkout's lock for publishing and adopting.

    A killed process leaves no lock behind. Raises CheckoutError where another process holds it, or Snakemake is at work here: its jobs
    would change the files, and a job of its own would wait forever.
    """
    path = root / ".dvc" / "tmp" / "replica.lock"
    if not (root / ".dvc").is_dir():
        raise CheckoutError(f"{root / '.dvc'}: no such folder; `dvc init` in the root of a checkout makes it")
    path.parent.mkdir(exist_ok=True)
    with open(path, "a+", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            handle.seek(0)
            raise CheckoutError(
                f"another call is at work here ({_holder(handle.read())}); wait for it to end"
            ) from None
        refuse_during_snakemake(root, verb)
        handle.truncate(0)
        facts = {"what": verb, "pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%F %T")}
        handle.write(json.dumps(facts))
        handle.flush()
        try:
            yield
        finally:
            handle.truncate(0)


def _holder(text: str) -> str:
    try:
        facts = parse_json(text, "the lock")
        return f"`replica {facts['what']}`, process {facts['pid']} on {facts['host']} since {facts['since']}"
    except (ReplicaError, KeyError, TypeError):
        return "its process has not said which it is"


def refuse_during_snakemake(root: Path, verb: str) -> None:
    """Raise CheckoutError where Snakemake holds this folder: it runs, or this is one of its jobs; one that was killed holds nothing."""
    locks = sorted((root / ".snakemake" / "locks").glob("*.lock"))
    known = holders(root / ".snakemake")
    if locks and not (known and all(known.values())):
        raise CheckoutError(
            f"{verb}: Snakemake is at work in this folder ({', '.join(known) or locks[0]}), and its jobs never share artifacts; wait "
            "for it to end (`snakemake --unlock` where it was killed on another machine)"
        )


def git(root: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run git in the checkout; CheckoutError where it cannot be started and, unless `check` is off, with its words where it fails."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, encoding="utf-8", errors="replace", check=False
        )
    except OSError as error:
        raise CheckoutError(
            f"git cannot be started ({error.filename}: {error.strerror}); install it, or put its folder on PATH"
        ) from None
    if check and done.returncode:
        raise CheckoutError(f"git {arguments[0]}: {words(done)}")
    return done


def words(done: subprocess.CompletedProcess[str]) -> str:
    """Return what git said when it failed, in one line."""
    return " ".join((done.stderr or done.stdout).split()) or f"ended with status {done.returncode}"


def ready_to_commit(root: Path) -> None:
    """Raise CheckoutError where git could not commit: no repository, no commit on the branch, or no author."""
    program = git(root, "rev-parse", "--show-toplevel", check=False)
    if program.returncode:
        raise CheckoutError(
            f"{root.resolve()}: publishing ends with a commit, and git cannot work here; work in a clone of yours ({words(program)})"
        )
    for role in ("AUTHOR", "COMMITTER"):
        if git(root, "var", f"GIT_{role}_IDENT", check=False).returncode:
            raise CheckoutError(
                "git does not know who you are, and publishing ends with a commit: "
                "git config user.name NAME && git config user.email ADDRESS"
            )


def committed(root: Path, path: str) -> str | None:
    """Return a file's text in the last commit, or None where it has none."""
    done = git(root, "show", f"HEAD:./{path}", check=False)
    return done.stdout if done.returncode == 0 else None


def commit(root: Path, paths: Iterable[str], message: str) -> str | None:
    """Commit these files alone, whatever is staged; returns the commit, or None where none of them changed."""
    paths = [path for path in paths if (root / path).exists()]
    if not git(root, "status", "--porcelain", "--", *paths).stdout.strip():
        return None
    git(root, "add", "--", *paths)
    git(root, "commit", "--quiet", "--message", message, "--", *paths)
    return git(root, "rev-parse", "--short", "HEAD").stdout.strip()
