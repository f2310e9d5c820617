"""The project's training loop, taken one step at a time and timed by phase, so that several trainings can go on in turn.

Each training runs in a thread of its own and waits before every step until it is told to take one: at any time one thread computes.
A step can also be counted instead of timed: its FLOPs, or its memory, by the project's meters.
"""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import TrainerCallback

from replica.config.schema import Train
from replica.meters.flops import ModuleSpans
from replica.meters.semantics import rules
from replica.meters.tracker import SavedBytes
from replica.methods import Context
from replica.training.cost import PeakMemory, tracker_of
from replica.training.loop import Loop

#: Parts of a step. What a method does before the forward pass and after the backward pass is in `update`.
PHASES = ("forward", "backward", "update")
#: Steps that a training thinks it has: no method reaches its end, or an event at a share of it.
STEPS = 1_000_000


class Rows:
    """Examples of equal length that were drawn once: columns (rows, ...) by name."""

    def __init__(self, columns: dict[str, torch.Tensor], length: int):
        self.columns = {**columns, "example_id": torch.arange(len(next(iter(columns.values()))))}
        self.lengths = [length] * len(self)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, place: int) -> int:
        return place

    def __call__(self, places: list[int]) -> dict[str, torch.Tensor]:
        """Return the batch of these places."""
        return {name: column[list(places)] for name, column in self.columns.items()}

    def set_epoch(self, epoch: int) -> None:
        """Stay the same in every epoch."""


class _End(TrainerCallback):
    """Closes a step when all else that belongs to it is done."""

    def __init__(self, loop: TimedLoop):
        self.loop = loop

    def on_step_end(self, args, state, control, **kwargs):
        self.loop.end_step()


class TimedLoop(Loop):
    """A `Loop` that hands over before each step; `step` takes one and says what it took.

    `counts_saved` is false where the loss takes gradients itself: what is saved for these is not alive at one time, and functorch's
    transforms do not let it be counted.
    """

    counts_saved = True

    def __init__(
        self, model: Any, rows: Rows, batch_size: int, methods: list[tuple[frozenset[str], Any]], **options: Any
    ):
        folder, context, precision = options["folder"], options["context"], options["precision"]
        train = Train(
            steps=STEPS, batch_size=batch_size, learning_rate=1e-4, precision=precision, checkpoint_every=STEPS
        )
        super().__init__(
            model, train, split=rows, collate=rows, context=context, methods=methods,
            objective=lambda m, batch, c: c.forward(m, batch).loss, state_folder=Path(folder),
        )  # fmt: skip
        self.memory = PeakMemory(steps=0)  # following a step's storages takes time, which would be the step's
        self.add_callback(_End(self))
        self._go, self._done, self._stopping = threading.Semaphore(0), threading.Semaphore(0), False
        self._mode, self._open, self._error = "time", ExitStack(), None
        self._clocks: list[tuple[float, float]] = []
        self._thread = threading.Thread(target=self._run, daemon=True)

    def step(self, mode: str = "time") -> dict[str, Any]:
        """Take one step. `time`: wall and processor seconds by phase; `flops`: operations; `memory`: bytes of a step that has its state."""
        self._mode = mode
        if not self._thread.is_alive():
            self._thread.start()
        self._go.release()
        self._done.acquire()
        if self._error is not None:
            raise self._error
        return self._found

    def close(self) -> None:
        """End the training, wherever it is."""
        self._stopping = True
        self._go.release()
        self._thread.join()

    def _run(self) -> None:
        try:
            self.fit()
        except SystemExit:
            pass
        except Exception as error:
            self._error = error
        self._done.release()

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """Wait for the word to go on; making the batch is not part of the step."""
        found = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._go.acquire()
        if self._stopping:
            raise SystemExit
        self._begin_step()
        return found

    def compute_loss(self, *arguments, **options):
        """Return the loss; what it took is the step's forward phase, gradients that a method takes inside it included."""
        self._tick("forward")
        loss = super().compute_loss(*arguments, **options)
        if self._mode == "memory":
            self._saving.close()
        self._tick("backward")
        return loss

    def training_step(self, *arguments, **options):
        """Compute loss and gradient."""
        loss = super().training_step(*arguments, **options)
        self._tick("optimizer")
        return loss

    def _tick(self, phase: str) -> None:
        self._clocks.append((time.perf_counter(), time.thread_time()))
        if self._mode == "memory":
            self._tracker.phase = phase

    def _begin_step(self) -> None:
        if self._mode != "time":
            self._open.enter_context(rules(self.model, kernel="eager"))
        if self._mode == "flops":
            self._counter = FlopCounterMode(display=False)
            self._counter.mod_tracker = ModuleSpans(self.model)  # torch's own cannot follow functorch
            self._open.enter_context(self._counter)
        elif self._mode == "memory":
            self._tracker = self._open.enter_context(tracker_of(self.model, self.optimizer))
            self._saved = SavedBytes(self._tracker)
            self._saving = ExitStack()
            if self.counts_saved:
                self._saving.enter_context(self._saved.counting())
        self._clocks.clear()
        self._tick("optimizer")

    def end_step(self) -> None:
        """Say what the step took and hand over."""
        self._tick("optimizer")
        self._open.close()
        if self._mode == "flops":
            self._found = {"flops": self._counter.get_total_flops()}
        elif self._mode == "memory":
            saved = self._saved.total if self.counts_saved else None
            self._found = {
                "peak_bytes": self._tracker.peak,
                "peak_phase": self._tracker.peak_phase,
                "saved_bytes": saved,
            }
        else:
            self._found = {
                kind: _phases([clock[place] for clock in self._clocks])
                for place, kind in enumerate(("seconds", "processor_seconds"))
            }
        self._done.release()


def _phases(ticks: list[float]) -> dict[str, float]:
    """Return the seconds of each phase from the times at a step's start, at both ends of the forward, the backward's and its own end."""
    start, forward, backward, update, end = ticks
    parts = (backward - forward, update - backward, (forward - start) + (end - update))
    return {**dict(zip(PHASES, parts, strict=True)), "step": end - start}


def context_of(rows: Rows, head: str, batch_size: int, seed: int = 0) -> Context:
    """Return a run's context over these rows."""
    return Context(
        seed=seed, total_steps=STEPS, head=head, learning_rate=1e-4, rows=len(rows), batch_size=batch_size,
        rows_at=rows, unseen=lambda count: rows(list(range(min(count, len(rows))))),
        beside=lambda step, count: rows([(step + place) % len(rows) for place in range(count)]),
    )  # fmt: skip
