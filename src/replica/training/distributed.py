"""Several processes that train one model: who is first, and what they have to agree on. One process needs none of it.

Processes find each other by the variables of torchrun: RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT. The first one alone
reads and writes the run's state and results.
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
    """Say whether this is the process that writes."""
    return rank() == 0


def say(text: str) -> None:
    """Print a line of progress to standard error, once for all processes."""
    if first():
        print(text, file=sys.stderr, flush=True)


def start() -> None:
    """Join the other processes: with NCCL where there is a GPU, with gloo on processors."""
    if processes() == 1:
        return
    import torch
    from torch import distributed

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        distributed.init_process_group("nccl")
    else:
        distributed.init_process_group("gloo")


def end() -> None:
    """Wait for the other processes and part from them: what follows is done by one."""
    if processes() == 1:
        return
    from torch import distributed

    distributed.barrier()
    distributed.destroy_process_group()


def from_first(value: Any) -> Any:
    """Return the first process's value (any that can be pickled) in all of them."""
    if processes() == 1:
        return value
    from torch import distributed

    values = [value]
    distributed.broadcast_object_list(values, src=0)
    return values[0]


def anywhere(flag: bool, device: Any) -> bool:
    """Say whether the flag is set in any process; all of them must ask."""
    if processes() == 1:
        return flag
    import torch

    return bool(total(torch.tensor(float(flag), device=device)) > 0)


def total(values: Any) -> Any:
    """Return the sum of a tensor over all processes."""
    if processes() == 1:
        return values
    from torch import distributed

    distributed.all_reduce(values)
    return values


def barrier() -> None:
    """Wait until all processes are here."""
    if processes() > 1:
        from torch import distributed

        distributed.barrier()
