"""How long a real model takes for a batch, as a distribution over repeated runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import fmean, median, quantiles

import torch
from torch import nn

from replica.meters.batches import make_batch


def latency(
    model: nn.Module | Callable[[], object],
    batch: int = 8,
    length: int = 64,
    *,
    decoder_length: int | None = None,
    warmup: int = 3,
    repeats: int = 20,
) -> dict:
    """Time a model's forward pass on a full batch (no padding, no gradients), or a callable without arguments.

    Returns milliseconds a run: `median_ms`, `mean_ms`, `p10_ms`, `p90_ms`; `samples_per_second` at the median; `runs`, `threads`
    (torch's), `device` and, of a model, `batch` and `length`. The first `warmup` runs are not counted; a CUDA device is waited for.
    Raises ValueError for fewer than 2 repeats or a model on meta.
    """
    if repeats < 2:
        raise ValueError(f"latency needs at least 2 repeats, got {repeats}")
    device = next(model.parameters()).device if isinstance(model, nn.Module) else torch.device("cpu")
    if device.type == "meta":
        raise ValueError("a model on the meta device computes nothing: its latency cannot be measured")
    run = (
        _forward(model, make_batch(model, batch, length, decoder_length, labels=False))
        if isinstance(model, nn.Module)
        else model
    )
    for _ in range(warmup):
        run()
    times = sorted(_timed(run, device) for _ in range(repeats))
    deciles = quantiles(times, n=10, method="inclusive")
    middle = median(times)
    return {
        "median_ms": middle,
        "mean_ms": fmean(times),
        "p10_ms": deciles[0],
        "p90_ms": deciles[-1],
        "samples_per_second": 1000.0 * batch / middle if middle else 0.0,
        "runs": repeats,
        "threads": torch.get_num_threads(),
        "device": str(device),
        "batch": batch,
        "length": length,
    }


def _forward(model: nn.Module, inputs: dict) -> Callable[[], object]:
    def run() -> object:
        training = model.training
        model.eval()
        try:
            with torch.inference_mode():
                return model(**inputs)
        finally:
            model.train(training)

    return run


def _timed(run: Callable[[], object], device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    run()
    _wait(device)
    return 1000.0 * (time.perf_counter() - start)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
