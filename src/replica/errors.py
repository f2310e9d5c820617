"""The errors a person can cause and mend: each names the mistake, its place and the remedy."""

from __future__ import annotations

import difflib
import errno
import os
from collections.abc import Iterable

from replica import secrets

#: Exit status of a mistake that a person has to mend; the same call fails the same way.
MISTAKE = 2
#: Exit status of a process that was told to stop, wrote a checkpoint and goes on when it is started again.
INTERRUPTED = 85
#: Exit status of training that did not fit into memory; started again it takes smaller micro-batches.
OUT_OF_MEMORY = 86
#: Exit status of training whose loss was NaN or infinite; the same call fails the same way.
DIVERGED = 87
#: Most characters of a message about configuration; what a file holds may be long.
MOST_CHARACTERS = 1500


class ReplicaError(Exception):
    """Something a person can mend; command-line programs print its message without a traceback and exit with `status`.

    Its message shows no secret, whatever a library or an address put into it.
    """

    status = MISTAKE

    def __str__(self) -> str:
        return secrets.masked(super().__str__())


class ConfigError(ReplicaError):
    """A configuration file is wrong; the message, of one line, names file, key and remedy."""

    def __init__(self, message: str):
        line = " ".join(line.strip() for line in message.splitlines())
        super().__init__(line if len(line) <= MOST_CHARACTERS else f"{line[:MOST_CHARACTERS]}…")


class AssetError(ReplicaError):
    """A data set or model cannot be had, or differs from the registry's pin."""


class TrainingError(ReplicaError):
    """A training run cannot go on (a checkpoint that cannot be read, a parent that is missing)."""


class DivergedError(TrainingError):
    """The loss is NaN or infinite: the same configuration ends so again."""

    status = DIVERGED


class OutOfMemoryError(TrainingError):
    """A step did not fit into memory; the next start takes smaller micro-batches."""

    status = OUT_OF_MEMORY


class RepeatedError(ReplicaError):
    """A run failed before in a way that nothing has changed since; carries the status of then."""

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status


class ResultError(ReplicaError):
    """A stored result is missing, cannot be read, or holds a value that no result may have (a number that is not finite)."""


#: Messages of torch.save where the disk is full, by how much of a block was still written: it reports only how its writer noticed.
_TORCH_SAVE = ("] . unexpected pos ", "PytorchStreamWriter failed writing", "basic_ios::clear: iostream error")


def disk_is_full(error: BaseException) -> bool:
    """Return whether an error, of Python or of a library that wraps it in its own type, means a full disk or quota."""
    text = str(error)
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in text
    return full or any(mark in text for mark in _TORCH_SAVE)


def system_error(error: BaseException) -> str:
    """Describe an error of the operating system in one line: the file (or both files) and what is wrong with it."""
    names = [os.fsdecode(name) for name in _file_names(error)]
    if disk_is_full(error):
        return f"no space left on the disk while writing {names[0] if names else 'a file'}; free some and run again"
    reason = getattr(error, "strerror", None) or str(error).strip().partition("\n")[0] or type(error).__name__
    if getattr(error, "errno", None) in (errno.EACCES, errno.EPERM, errno.EROFS):
        reason += " (is it another user's, or read-only?)"
    elif getattr(error, "errno", None) in (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ELOOP):
        reason += " (something else is in its place)"
    return f"{' -> '.join(names)}: {reason}" if names else str(reason)


def _file_names(error: BaseException) -> list[str | bytes]:
    names = (getattr(error, key, None) for key in ("filename", "filename2"))
    return [name for name in names if isinstance(name, (str, bytes)) and name]


def nearest(name: str, known: Iterable[str], *, listed: bool = True) -> str:
    """Return `; did you mean 'x'?` for the known name closest to `name`, whatever the case of its letters.

    Where none is close, the list of known names, or with `listed=False` an empty text.
    """
    known = sorted({str(k) for k in known})
    folded = {k.lower(): k for k in reversed(known)}
    close = difflib.get_close_matches(str(name)[:100].lower(), folded, n=1, cutoff=0.5)
    if close:
        return f"; did you mean '{folded[close[0]]}'?"
    if not known or not listed:
        return ""
    shown = ", ".join(k[:60] for k in known[:12]) + (", …" if len(known) > 12 else "")
    return f"; known: {shown}"
