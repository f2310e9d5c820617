"""The cost of a run: bytes alive in its training steps, followed on real batches, and FLOPs of the finished model."""

from __future__ import annotations

import copy
from contextlib import ExitStack
from typing import Any

import torch

from replica.errors import ReplicaError
from replica.measure.structural import CANNOT
from replica.meters.flops import measure_flops
from replica.meters.options import FlopsOptions
from replica.meters.tracker import StorageTracker
from replica.training import distributed

#: Steps of a call that are followed: the second to the ninth. Optimizer state exists only after the first; batches differ in length,
#: and arms that train on the same rows with the same seed meet the same ones.
FIRST, STEPS = 2, 8


def tracker_of(model: torch.nn.Module, optimizer: torch.optim.Optimizer | None) -> StorageTracker:
    """Return a tracker, not yet on, with the storages that a step begins with: parameters, buffers and the optimizer's state."""
    tracker = StorageTracker(next(model.parameters()).device)
    tracker.add("parameter", model.parameters())
    tracker.add("buffer", model.buffers())
    states = optimizer.state.values() if optimizer is not None else ()
    tracker.add("optimizer", (v for state in states for v in state.values() if isinstance(v, torch.Tensor)))
    return tracker


class PeakMemory:
    """The largest number of bytes alive in a step, over the followed steps.

    On a GPU it is the peak of torch's allocator. Elsewhere every storage is followed from the operation that returns it to its
    end, with parameters, buffers and optimizer state (as in `replica.meters.measure_memory`): not seen are workspaces inside kernels
    and memory of a method that no operation of a step returns.
    """

    def __init__(self, steps: int = STEPS) -> None:
        self.peak: int | None = None
        self._taken, self._steps = 0, steps
        self._open = ExitStack()
        self._tracker: StorageTracker | None = None

    def begin(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer | None) -> None:
        """A step begins."""
        self._taken += 1
        if not FIRST <= self._taken < FIRST + self._steps:
            return
        device = next(model.parameters()).device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            return
        self._tracker = self._open.enter_context(tracker_of(model, optimizer))

    def end(self, model: torch.nn.Module) -> None:
        """The step has ended."""
        if not FIRST <= self._taken < FIRST + self._steps:
            return
        device = next(model.parameters()).device
        peak = self._tracker.peak if self._tracker else torch.cuda.max_memory_allocated(device)
        self.close()
        self.peak = max(peak, self.peak or 0)

    def close(self) -> None:
        """Stop following, also in the middle of a step that failed."""
        self._open.close()
        self._tracker = None

    def facts(self) -> dict[str, Any]:
        """Return `{"peak_bytes", "steps"}`; empty where no full step was followed."""
        if self.peak is None:
            return {}
        return {"peak_bytes": self.peak, "steps": min(self._steps, self._taken - FIRST + 1)}


def forward_flops(model: torch.nn.Module, length: int) -> dict[str, int]:
    """Return the FLOPs of a finished model's forward pass over one input of `length` tokens (images have no length).

    `{"forward", "length"}`, counted on a copy without values; empty, with a line of the reason, for a model that the meters cannot run so.
    """
    try:
        return {
            "forward": measure_flops(_without_values(model), FlopsOptions(batch=1, length=length))["forward"],
            "length": length,
        }
    except (ReplicaError, *CANNOT) as error:
        distributed.say(f"FLOPs of the forward pass were not counted: {type(error).__name__}: {error}")
        return {}


def _without_values(model: torch.nn.Module) -> torch.nn.Module:
    """Return a copy of a model on the meta device; no value is copied on the way."""
    stand_ins: dict[int, Any] = {}
    for parameter in model.parameters():
        empty = torch.empty_like(parameter, device="meta", requires_grad=False)
        stand_ins[id(parameter)] = torch.nn.Parameter(empty, requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        stand_ins[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(model, stand_ins)
