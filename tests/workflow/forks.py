"""Runs programs of the project one after another, each in a fork of a process that has imported their libraries already.

Reads a JSON object a line, `{"script", "arguments", "log"}`, and answers each with the program's exit status.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import traceback


def main() -> None:
    import torch

    import replica.report.figures
    import replica.report.site
    import replica.training.evaluate
    import replica.training.run  # noqa: F401

    torch.set_num_threads(1)
    print("ready", flush=True)
    for line in sys.stdin:
        call = json.loads(line)
        process = os.fork()
        if process == 0:
            _run(call)
        _, status = os.waitpid(process, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _run(call: dict) -> None:
    """Run a program with its output in a log; never returns."""
    log = os.open(call["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.argv = [call["script"], *call["arguments"]]
    status = 0
    try:
        runpy.run_path(call["script"], run_name="__main__")
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
