"""A signal that asks training to stop never ends it by itself, whatever the process was doing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

WRITES = """
import sys
from replica.training.interruption import Interruption

with Interruption() as interruption:
    print("ready", file=sys.stderr, flush=True)
    for number in range(200_000):
        print("step", number, "of a log that somebody reads slowly" * 5, file=sys.stderr, flush=True)
        if interruption.requested and number > 2_000:
            break
sys.exit(85 if interruption.requested else 0)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_while_the_process_writes_its_log_is_a_request(number):
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    process = subprocess.Popen([sys.executable, "-c", WRITES], stderr=subprocess.PIPE, encoding="utf-8", env=buffered)
    said = [process.stderr.readline()]
    time.sleep(1)  # the pipe is full: the process waits in the middle of a line
    process.send_signal(number)
    time.sleep(0.2)
    said += process.stderr
    assert process.wait() == 85, said[-5:]
    assert any(f"signal {number.name}: saving a checkpoint, then stopping" in line for line in said)
