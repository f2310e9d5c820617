"""Programs that this process started and answers for: signals reach all of them, and a status reads as a shell would read it.

Uses the standard library alone.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from types import FrameType
from typing import Any


class Children:
    """While its block runs, hands each of some signals on to every program started in it, also to those started after it came."""

    def __init__(self, signals: Iterable[int]) -> None:
        self.signals = tuple(signals)
        self.started: list[subprocess.Popen] = []
        self.received: list[int] = []
        self._previous: dict[int, Any] = {}

    def start(
        self, command: Sequence[str], variables: Mapping[str, object], keep: Sequence[int] = ()
    ) -> subprocess.Popen:
        """Start a program with this environment and more variables; file descriptors in `keep` stay open in it."""
        environment = {**os.environ, **{name: str(value) for name, value in variables.items()}}
        process = subprocess.Popen(command, env=environment, pass_fds=keep)
        self.started.append(process)
        for number in list(self.received):
            process.send_signal(number)
        return process

    def tell(self, number: int, frame: FrameType | None = None) -> None:
        """Send a signal to all that still run; it counts as received."""
        self.received.append(number)
        for process in self.started:
            if process.poll() is None:
                process.send_signal(number)

    def __enter__(self) -> Children:
        self._previous = {number: signal.signal(number, self.tell) for number in self.signals}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)


def shell_status(status: int) -> int:
    """Return an exit status; the end by a signal, which `subprocess` gives as its negative, as 128 + its number."""
    return status if status >= 0 else 128 - status
