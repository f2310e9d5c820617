"""Peak memory of training or running a model, by the tensors that fill it, from the model's own operations on meta or real tensors."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from replica.meters.batches import loss_of, make_batch
from replica.meters.optimizers import make_optimizer
from replica.meters.options import MemoryOptions
from replica.meters.semantics import autocasting, rules
from replica.meters.tracker import SavedBytes, StorageTracker

Step = Callable[[nn.Module, dict], torch.Tensor]
MakeOptimizers = Callable[[nn.Module], list[torch.optim.Optimizer]]

GIB = 2**30
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_DEFAULT = MemoryOptions()


def measure_memory(
    model: nn.Module,
    options: MemoryOptions = _DEFAULT,
    *,
    step: Step = loss_of,
    make_optimizers: MakeOptimizers | None = None,
) -> dict:
    """Measure the bytes alive while a model trains for two steps (or runs once without gradients).

    Returns the keys of `MemoryOptions.results`.

    Every storage that an operation returns is followed by weak reference until it dies, under the phase that created it; the peak is
    the largest sum. Two steps, because optimizer state exists only after the first. The sum of two gradients of a tensor takes the first
    one's storage, as in a step that nothing watches; under a dispatch mode and on meta autograd makes a new one. Not seen: workspaces
    inside kernels, the allocator's rounding and fragments, the device's context.

    `step(model, batch) -> loss` replaces the model's own loss, and `make_optimizers(model)` the optimizer that the options name.
    """
    if options.dtype != "float32":
        model = copy.deepcopy(model).to(DTYPES[options.dtype])
    result = _measure(model, options, step, make_optimizers)
    if options.budget_gb is not None:
        result |= _largest_batch(
            lambda batch: _measure(model, options.model_copy(update={"batch": batch}), step, make_optimizers),
            result,
            options.budget_gb * 1e9,
        )
    return result


def _measure(model: nn.Module, options: MemoryOptions, step: Step, make_optimizers: MakeOptimizers | None) -> dict:
    """Measure one batch size."""
    with _undisturbed(model, options), rules(model, options.attention, dropout=options.dropout, era=options.era):
        inputs = make_batch(model, options.batch, options.length, options.decoder_length, labels=options.train)
        device = next(model.parameters()).device
        tracker = StorageTracker(device, truth=not options.padding, rounding=options.rounding)
        tracker.add("parameter", model.parameters())
        tracker.add("buffer", model.buffers())
        tracker.add("input", inputs.values())
        saved = SavedBytes(tracker)
        if options.train:
            frozen_states = _frozen_states(model, options) if options.all_states else []
            tracker.add("optimizer", frozen_states)
            optimizers = make_optimizers(model) if make_optimizers else _optimizers(model, options)
            _train(model, inputs, _in_precision(step, options.autocast), optimizers, tracker, saved, options)
        else:
            with torch.no_grad(), tracker:
                _in_precision(lambda model, inputs: model(**inputs), options.autocast)(model, inputs)
    return {
        "peak": tracker.peak,
        "peak_gib": tracker.peak / GIB,
        "peak_gb": tracker.peak / 1e9,
        "peak_mb": tracker.peak / 1e6,
        "peak_phase": tracker.peak_phase,
        "batch": options.batch,
        "per_example": tracker.peak / options.batch,
        "per_example_mb": tracker.peak / options.batch / 1e6,
        "at_peak": dict(tracker.at_peak),
        "by_category": dict(tracker.largest),
        "saved_bytes": saved.total,
    }


def _in_precision(step: Step, dtype: str | None) -> Step:
    """Return the step with its forward pass in mixed precision, or as it is without a `dtype`."""
    if dtype is None:
        return step

    def mixed(model: nn.Module, inputs: dict) -> torch.Tensor:
        with autocasting(DTYPES[dtype]):
            return step(model, inputs)

    return mixed


def _optimizers(model: nn.Module, options: MemoryOptions) -> list[torch.optim.Optimizer]:
    """Return one optimizer for all trainable parameters, or with `per_layer` one for each; none without a rule."""
    trained = [p for p in model.parameters() if p.requires_grad]
    if options.optimizer is None or not trained:
        return []
    low_rank = {"model": model, "rank": options.rank, "projector": options.projector}
    groups = [[p] for p in trained] if options.per_layer else [trained]
    return [make_optimizer(options.optimizer, group, options.foreach, **low_rank) for group in groups]


def _frozen_states(model: nn.Module, options: MemoryOptions) -> list[torch.Tensor]:
    """Return the optimizer state that parameters frozen now would have, from a step of copies with zero gradients."""
    frozen = [nn.Parameter(torch.zeros_like(p)) for p in model.parameters() if not p.requires_grad]
    if options.optimizer is None or not frozen:
        return []
    for parameter in frozen:
        parameter.grad = torch.zeros_like(parameter)
    optimizer = make_optimizer(options.optimizer, frozen)
    optimizer.step()
    return list(_state(optimizer))


def _train(
    model: nn.Module,
    inputs: dict,
    step: Step,
    optimizers: list[torch.optim.Optimizer],
    tracker: StorageTracker,
    saved: SavedBytes,
    options: MemoryOptions,
) -> None:
    """Train two steps under the tracker, which learns of gradients and optimizer state as they appear."""
    per_parameter = {id(o.param_groups[0]["params"][0]): o for o in optimizers} if options.per_layer else {}

    def update(optimizer: torch.optim.Optimizer) -> None:
        tracker.phase = "optimizer"
        optimizer.step()
        tracker.add("optimizer", _state(optimizer))

    def on_gradient(parameter: nn.Parameter) -> None:
        tracker.take(parameter.grad, "gradient")
        if per_parameter:
            update(per_parameter[id(parameter)])
            parameter.grad = None
            tracker.phase = "backward"

    hooks = [p.register_post_accumulate_grad_hook(on_gradient) for p in model.parameters() if p.requires_grad]
    try:
        for _ in range(2):
            saved.sizes.clear()
            with tracker:
                tracker.phase = "forward"
                with saved.counting():
                    loss = step(model, inputs)
                tracker.phase = "backward"
                loss.backward()
                del loss
                if not per_parameter:
                    tracker.phase = "optimizer"
                    for optimizer in optimizers:
                        update(optimizer)
                model.zero_grad(set_to_none=options.era != "2021")
    finally:
        for hook in hooks:
            hook.remove()


def _state(optimizer: torch.optim.Optimizer) -> Iterator[torch.Tensor]:
    for state in optimizer.state.values():
        yield from (value for value in state.values() if isinstance(value, torch.Tensor))


@contextmanager
def _undisturbed(model: nn.Module, options: MemoryOptions) -> Iterator[None]:
    """Set the model's mode and checkpointing for a measurement, and leave no gradients or garbage behind."""
    training = model.training
    gradients = [(p, p.grad) for p in model.parameters()]
    for parameter, _ in gradients:
        parameter.grad = None
    if gradients and not gradients[0][0].is_meta:
        gc.collect()  # on meta no memory is freed
    model.train(options.train)
    if options.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False, "preserve_rng_state": False})
    try:
        yield
    finally:
        if options.checkpointing:
            model.gradient_checkpointing_disable()
        model.train(training)
        for parameter, gradient in gradients:
            parameter.grad = gradient


def _largest_batch(measure: Callable[[int], dict], first: dict, budget: float) -> dict:
    """Return the largest batch whose peak is within the budget of bytes; it and the next one are both measured.

    Peaks are affine in the batch between changes of the phase that dominates, so a few secant steps suffice.
    """
    batch = first["batch"]
    results = {batch: first}
    fits, too_many = 0, None

    def try_batch(size: int) -> None:
        nonlocal fits, too_many
        results[size] = results.get(size) or measure(size)
        if results[size]["peak"] <= budget:
            fits = max(fits, size)
        else:
            too_many = size if too_many is None else min(too_many, size)

    try_batch(batch)
    try_batch(batch // 2 if batch > 1 else 2)
    while too_many is None or too_many - fits > 1:
        a, b = sorted(results, key=lambda size: abs(results[size]["peak"] - budget))[:2]
        slope = (results[a]["peak"] - results[b]["peak"]) / (a - b)
        guess = int(a + (budget - results[a]["peak"]) / slope) if slope > 0 else 2 * max(a, b)
        if guess <= fits:
            guess = fits + 1
        elif too_many is not None and guess >= too_many:
            guess = too_many - 1
        try_batch(guess)
    best = results.get(fits, {})
    return {
        "largest_batch": fits,
        "at_largest": {key: best.get(key, 0) for key in ("peak", "peak_gb", "per_example", "per_example_mb")},
    }
