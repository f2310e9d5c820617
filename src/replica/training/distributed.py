"""Several processes that train one model: their numbers, and the values they agree on, through accelerate.

Processes find each other by the variables of torchrun: RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT. The first one alone
reads and writes the run's state and results. `processes`, `rank`, `first` and `say` import no torch: programs need them at once.
"""

from __future__ import annotations

import os
import sys
from typing import Any


def processes() -> int:
    """Return how many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Return this process's number, from 0."""
    return int(os.environ.get("RANK", "0"))


def first() -> bool:
    """Return whether this is the process that writes."""
    return rank() == 0


def say(text: str) -> None:
    """Print a line of progress to standard error, once for all processes."""
    if first():
        print(text, file=sys.stderr, flush=True)


def _state() -> Any:
    """Return accelerate's state; the first call joins the other processes, with NCCL on GPUs and gloo on processors."""
    import torch
    from accelerate import PartialState

    return PartialState(cpu=not torch.cuda.is_available())


def start() -> None:
    """Join the other processes."""
    _state()


def end() -> None:
    """Wait for the other processes and part from them: one alone goes on."""
    barrier()
    _state().destroy_process_group()


def barrier() -> None:
    """Wait until all processes are here."""
    _state().wait_for_everyone()


def from_first(value: Any) -> Any:
    """Return the first process's value (any that can be pickled) in all of them."""
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([value])[0]


def total(values: Any) -> Any:
    """Return the sum of a tensor over all processes."""
    from accelerate.utils import reduce

    return reduce(values, reduction="sum")


def anywhere(flag: bool, device: Any) -> bool:
    """Return whether the flag is set in any process; all of them must ask."""
    if processes() == 1:
        return flag  # asked at every step: no tensor for one process
    import torch

    return bool(total(torch.tensor(float(flag), device=device)) > 0)
