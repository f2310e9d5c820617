"""SIGTERM, SIGINT and SIGUSR1 as a request: training stops after the step, with a checkpoint. Imports no torch."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from types import FrameType
from typing import Any

#: Signals that ask a training process to stop: the end of a job or a preemption, a person's Ctrl-C, and a time limit that is near.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class Interruption:
    """While its block runs, a signal only sets `requested`.

    Taken before models are loaded, so that a process that has announced itself is never killed by a signal it could have answered.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, Any] = {}

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        # not `print`: the signal may come while the process itself writes there, and a buffer cannot be entered twice
        line = f"signal {signal.Signals(number).name}: saving a checkpoint, then stopping\n"
        with suppress(OSError):
            os.write(2, line.encode())

    def __enter__(self) -> Interruption:
        self._previous = {number: signal.signal(number, self._request) for number in SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
