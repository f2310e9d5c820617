"""Peak memory of training or running a model, by what fills it, from the model's own operations on meta or real tensors."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from replica.errors import ConfigError, nearest
from replica.meters.batches import loss_of, make_batch
from replica.meters.optimizers import LOW_RANK, make_optimizer
from replica.meters.semantics import autocasting, rules
from replica.meters.tracker import SavedBytes, StorageTracker

Step = Callable[[nn.Module, dict], torch.Tensor]

GIB = 2**30
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ERAS = ("today", "2021")


def measure_memory(
    model: nn.Module,
    batch: int = 32,
    length: int = 128,
    *,
    decoder_length: int | None = None,
    optimizer: str | None = "adamw",
    train: bool = True,
    dtype: str = "float32",
    attention: str = "eager",
    dropout: bool = True,
    padding: bool = False,
    checkpointing: bool = False,
    era: str = "today",
    foreach: bool = False,
    rank: int | None = None,
    projector: str | None = None,
    per_layer: bool = False,
    all_states: bool = False,
    budget_gb: float | None = None,
    autocast: str | None = None,
    rounding: int = 1,
    step: Step | None = None,
    make_optimizer_of: Callable[[nn.Module], torch.optim.Optimizer] | None = None,
) -> dict:
    """Measure the bytes alive while a model trains for two steps (or, with `train=False`, runs once without gradients).

    Every storage that an operation returns is followed by weak reference until it dies, under the phase that made it; the peak is
    the largest sum. Two steps, because optimizer state exists only after the first. Not seen: workspaces inside kernels, the
    allocator's rounding and fragments, the device's context.

    `step(model, batch) -> loss` replaces the model's own loss. `optimizer=None` stops after backward. `dtype` casts the whole
    model; `autocast` runs the forward pass in mixed precision as `semantics.autocasting` says, with weights in `dtype`.
    `rounding` is what every storage is rounded up to: 512 for torch's CUDA allocator. `attention`, `dropout` and `era` name the
    rules of `semantics.rules`; under `era="2021"` gradients also stay allocated between steps. `padding` says whether a batch
    has padded tokens, so that masks are materialised (on the meta device). `foreach` groups the optimizer's update as torch
    does on CUDA by default, which needs temporaries of the parameters' size. `rank` and `projector` are GaLore's, as
    `optimizer_bytes` has them. `per_layer` updates every parameter in the backward pass as soon as its gradient is complete,
    and frees the gradient. `all_states` gives frozen parameters optimizer state too, as methods have it that train other parameters
    at each step. `budget_gb` adds the largest batch whose peak fits.
    Raises ConfigError for an unknown dtype, era or attention, and for autocast with checkpointing.
    """
    _check(dtype, era, attention, autocast)
    if autocast and checkpointing:
        raise ConfigError("memory: autocast is not emulated where checkpointing recomputes; give one of them")
    if dtype != "float32":
        model = copy.deepcopy(model).to(DTYPES[dtype])

    def at(size: int) -> dict:
        with _undisturbed(model, train, checkpointing), rules(model, kernel=attention, dropout=dropout, era=era):
            inputs = make_batch(model, size, length, decoder_length, labels=train)
            tracker = StorageTracker(next(model.parameters()).device, truth=not padding, rounding=rounding)
            saved = SavedBytes(tracker)
            tracker.add("parameter", model.parameters())
            tracker.add("buffer", model.buffers())
            tracker.add("input", inputs.values())
            if train:
                make = make_optimizer_of or (lambda m: _optimizers(m, optimizer, foreach, rank, projector, per_layer))
                kept = _frozen_states(model, optimizer) if all_states else []
                tracker.add("optimizer", kept)
                _train(model, inputs, tracker, saved, _mixed(step or loss_of, autocast), make, era == "2021", per_layer)
            else:
                with torch.no_grad(), tracker:
                    _mixed(lambda m, given: m(**given), autocast)(model, inputs)
        return _result(tracker, saved, size)

    result = at(batch)
    if budget_gb is not None:
        result.update(_largest(at, result, batch, budget_gb))
    return result


def _mixed(step: Callable, dtype: str | None) -> Callable:
    """Return the step with its forward pass in mixed precision, or as it is without a `dtype`."""
    if dtype is None:
        return step

    def mixed(model: nn.Module, inputs: dict) -> torch.Tensor:
        with autocasting(DTYPES[dtype]):
            return step(model, inputs)

    return mixed


def _check(dtype: str, era: str, attention: str, autocast: str | None) -> None:
    for what, value, known in (
        ("dtype", dtype, DTYPES),
        ("autocast", autocast or "bfloat16", ("bfloat16", "float16")),
        ("era", era, ERAS),
        ("attention", attention, ("eager", "fused")),
    ):
        if value not in known:
            raise ConfigError(f"memory: unknown {what} '{value}'{nearest(value, known)}")


def _optimizers(
    model: nn.Module, rule: str | None, foreach: bool, rank: int | None, projector: str | None, per_layer: bool
) -> list[torch.optim.Optimizer]:
    """Return one optimizer for all trainable parameters, or one for each of them; none without a rule."""
    trained = [p for p in model.parameters() if p.requires_grad]
    if rule is None or not trained:
        return []
    groups = [[p] for p in trained] if per_layer else [trained]
    return [make_optimizer(rule, group, foreach, model=model, rank=rank, projector=projector) for group in groups]


def _frozen_states(model: nn.Module, rule: str | None) -> list[torch.Tensor]:
    """Return the optimizer state that parameters frozen now would have, from a step of stand-ins with zero gradients."""
    frozen = [nn.Parameter(torch.zeros_like(p)) for p in model.parameters() if not p.requires_grad]
    if rule is None or not frozen:
        return []
    if rule in LOW_RANK:
        raise ConfigError(f"memory: all_states with optimizer '{rule}' is not known; use a rule without rank")
    for parameter in frozen:
        parameter.grad = torch.zeros_like(parameter)
    optimizer = make_optimizer(rule, frozen)
    optimizer.step()
    return list(_state(optimizer))


def _train(model, inputs, tracker, saved, step, make, keep_gradients: bool, per_layer: bool) -> None:
    made = make(model)
    optimizers = made if isinstance(made, list) else [made]
    own = {id(o.param_groups[0]["params"][0]): o for o in optimizers} if per_layer else {}

    def update(optimizer: torch.optim.Optimizer) -> None:
        tracker.phase = "optimizer"
        optimizer.step()
        tracker.add("optimizer", _state(optimizer))

    def on_gradient(parameter: nn.Parameter) -> None:
        tracker.take(parameter.grad, "gradient")
        if own:
            update(own[id(parameter)])
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
                if not own:
                    tracker.phase = "optimizer"
                    for optimizer in optimizers:
                        update(optimizer)
                model.zero_grad(set_to_none=not keep_gradients)
    finally:
        for hook in hooks:
            hook.remove()


def _state(optimizer: torch.optim.Optimizer) -> Iterator[torch.Tensor]:
    for state in optimizer.state.values():
        yield from (value for value in state.values() if isinstance(value, torch.Tensor))


@contextmanager
def _undisturbed(model: nn.Module, train: bool, checkpointing: bool) -> Iterator[None]:
    """Set the mode and checkpointing for a measurement, and leave no gradients or garbage behind."""
    training = model.training
    gradients = [(p, p.grad) for p in model.parameters()]
    for parameter, _ in gradients:
        parameter.grad = None
    if gradients and not gradients[0][0].is_meta:
        gc.collect()  # on meta there is nothing to free
    model.train(train)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False, "preserve_rng_state": False})
    try:
        yield
    finally:
        if checkpointing:
            model.gradient_checkpointing_disable()
        model.train(training)
        for parameter, gradient in gradients:
            parameter.grad = gradient


def _result(tracker: StorageTracker, saved: SavedBytes, batch: int) -> dict:
    peak = tracker.peak
    return {
        "peak": peak,
        "peak_gib": peak / GIB,
        "peak_gb": peak / 1e9,
        "peak_mb": peak / 1e6,
        "peak_phase": tracker.peak_phase,
        "batch": batch,
        "per_example": peak / batch,
        "per_example_mb": peak / batch / 1e6,
        "at_peak": dict(tracker.at_peak),
        "by_category": dict(tracker.largest),
        "saved_bytes": saved.total,
    }


def _largest(at: Callable[[int], dict], first: dict, batch: int, budget_gb: float) -> dict:
    """Find the largest batch whose peak is within the budget; it and the next one are both measured.

    Peaks are affine in the batch between changes of what dominates, so a few secant steps suffice.
    """
    budget = budget_gb * 1e9
    known = {batch: first}
    fits, too_many = 0, None

    def try_batch(size: int) -> None:
        nonlocal fits, too_many
        known[size] = known.get(size) or at(size)
        if known[size]["peak"] <= budget:
            fits = max(fits, size)
        else:
            too_many = size if too_many is None else min(too_many, size)

    try_batch(batch)
    try_batch(batch // 2 if batch > 1 else 2)
    while too_many is None or too_many - fits > 1:
        a, b = sorted(known, key=lambda size: abs(known[size]["peak"] - budget))[:2]
        slope = (known[a]["peak"] - known[b]["peak"]) / (a - b)
        guess = int(a + (budget - known[a]["peak"]) / slope) if slope > 0 else 2 * max(a, b)
        if guess <= fits:
            guess = fits + 1
        elif too_many is not None and guess >= too_many:
            guess = too_many - 1
        try_batch(guess)
    best = known.get(fits, {})
    return {
        "largest_batch": fits,
        "at_largest": {key: best.get(key, 0) for key in ("peak", "peak_gb", "per_example", "per_example_mb")},
    }
