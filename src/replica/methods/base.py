"""The protocol that every method follows, and the context that a run hands to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from replica.errors import ConfigError
from replica.tasks.kinds.kind import model_inputs

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import nn
    from transformers import PreTrainedModel

_NO_DATA = "this method looks at training data before it trains; there is none here"


@dataclass
class Context:
    """The facts of a run that a method may use.

    `teacher` is a frozen model in eval mode (or None). `stored` looks up a teacher's stored signals for a batch (or None).
    `restored` names the methods whose structure was already in the loaded model. `step` counts finished optimizer steps.
    `optimizer` is set once training has begun, for methods whose changes make its state stale. `rows` counts the examples of the
    training split and `batch_size` those of a step. Three functions make batches, each None in measurements, which have no data:
    `rows_at` from indices of training rows, `unseen` of the first rows of the `select` split, `beside` of the run's second task
    (`beside:`), by step and number of rows.
    """

    seed: int = 0
    total_steps: int = 1
    head: str = "classification"
    teacher: PreTrainedModel | None = None
    stored: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]] | None = None
    restored: frozenset[str] = frozenset()
    learning_rate: float = 0.0
    warmup_steps: int = 0
    weight_decay: float = 0.0
    rows: int = 0
    batch_size: int = 0
    rows_at: Callable[[list[int]], dict[str, torch.Tensor]] | None = None
    unseen: Callable[[int], dict[str, torch.Tensor]] | None = None
    beside: Callable[[int, int], dict[str, torch.Tensor]] | None = None
    step: int = 0
    epoch: float = 0.0
    recorded: dict[str, float] = field(default_factory=dict)
    optimizer: Any = None

    def forward(self, model: nn.Module, batch: dict[str, torch.Tensor], **options: Any) -> Any:
        """Run the model on a batch and return its output (`.loss` where the batch has labels, `.logits`, …)."""
        return model(**model_inputs(batch, answers=True), **options)

    def exactly(self, model: nn.Module, batch: dict[str, torch.Tensor]) -> Any:
        """Run the model as `forward` does, in float32 whatever the training's precision (without its wrapper of `forward`)."""
        import torch

        wrapped = vars(model).pop("forward", None)
        try:
            with torch.autocast(next(model.parameters()).device.type, enabled=False):
                return self.forward(model, batch)
        finally:
            if wrapped is not None:
                model.forward = wrapped

    def signals(self, method: Method, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the teacher's signals for a batch: the stored ones if the run has them, else computed now."""
        if self.stored is not None:
            return self.stored(batch)
        import torch

        with torch.no_grad():
            return method.teacher_signals(self.teacher, batch, self)

    def examples(self, places: list[int], model: nn.Module) -> dict[str, torch.Tensor]:
        """Return a batch of the training split's rows at these indices, on the model's device; ConfigError where there is no data."""
        if self.rows_at is None:
            raise ConfigError(_NO_DATA)
        device = next(model.parameters()).device
        return {key: value.to(device) for key, value in self.rows_at(places).items()}

    def drawn(self, count: int, purpose: int = 0) -> list[int]:
        """Return `count` indices of the training split (all, if it has fewer) in an order drawn by seed and purpose."""
        import numpy as np

        if self.rows_at is None:
            raise ConfigError(_NO_DATA)
        return np.random.default_rng([self.seed, 0xF15, purpose]).permutation(self.rows)[:count].tolist()

    def record(self, **values: float) -> None:
        """Add values (a partial loss, the current sparsity) to the next line of the run's history."""
        self.recorded.update(values)


class Method:
    """A method's hooks, which a subclass overrides; by default they change and return nothing.

    The configuration is `self.config`. Methods share functions in a module of their family and do not inherit from each other, except
    that a method which differs from another in its defaults alone (`lora-top`) is an empty subclass of it.
    """

    #: For stored teacher signals: axis names per signal, e.g. `{"attention": ("heads", "length", "length")}`.
    signal_axes: ClassVar[dict[str, tuple[str, ...]]] = {}

    #: The registered name, set by `MethodEntry.create`; errors and `context.restored` use it.
    name: str = ""

    def __init__(self, config: Any):
        self.config = config

    def fail(self, text: str) -> NoReturn:
        """Raise ConfigError with the method's name before the text."""
        raise ConfigError(f"method '{self.name or type(self).__name__}': {text}")

    def prepare(self, model: PreTrainedModel, context: Context) -> None:
        """Change the model in place: inject, freeze, mask, quantise. Must work on the meta device.

        Where `self.name in context.restored`, the model has the method's modules and weights already.
        """

    def restore(self, model: PreTrainedModel) -> None:
        """Rebuild in place the modules of a stored model of this method, before its weights are loaded. Called for `persistent` methods."""

    def loss(self, model: PreTrainedModel, batch: dict[str, torch.Tensor], context: Context) -> torch.Tensor:
        """Return the scalar training loss. Called only for methods that register `loss` among their changes."""
        raise NotImplementedError(f"{type(self).__name__} registers a loss and has none")

    def teacher_signals(
        self, teacher: PreTrainedModel, batch: dict[str, torch.Tensor], context: Context
    ) -> dict[str, torch.Tensor]:
        """Return the teacher's signals that the loss needs for this batch; can be stored once when inputs do not change."""
        raise NotImplementedError(f"{type(self).__name__} needs no teacher")

    def optimizer(self, model: PreTrainedModel, context: Context) -> torch.optim.Optimizer:
        """Return the optimizer. Called only for methods that register `optimizer` among their changes."""
        raise NotImplementedError(f"{type(self).__name__} registers an optimizer and has none")

    def learning_rate_factor(self, step: int, context: Context) -> float:
        """Return the factor on the peak rate at `step`. Called only for methods that register `schedule`."""
        raise NotImplementedError(f"{type(self).__name__} registers a schedule and has none")

    def on_step_begin(self, model: PreTrainedModel, context: Context) -> None:
        """Act before the forward pass of optimizer step number `context.step` (counted from 0)."""

    def on_gradients(self, model: PreTrainedModel, context: Context) -> None:
        """Act when the step's gradients are complete, before their norm is clipped (`max_grad_norm`) and the optimizer uses them.

        The norm is therefore that of masked gradients, with the gradients of penalties that a method adds here. A method that needs its
        own gradients whole (added noise) needs `max_grad_norm: 0`.
        """

    def on_step_end(self, model: PreTrainedModel, context: Context) -> None:
        """Act after the optimizer's step."""

    def on_epoch_begin(self, model: PreTrainedModel, context: Context) -> None:
        """Act at the start of an epoch."""

    def training_rows(self, rows: int, seed: int) -> list[int] | None:
        """Return the indices, below `rows`, of the training examples to use; None for all."""
        return None

    def sampler(self, rows: int, batch_size: int, seed: int, followers: list[Any]) -> Any:
        """Return a batch sampler over `rows` examples, used instead of the loop's; None to keep the loop's.

        Must forward `set_epoch` to `followers`. May yield empty batches; `loss` then receives one dummy row with `example_id == -1`.
        """
        return None

    def reported(self, model: PreTrainedModel, context: Context) -> dict[str, float | int | str | None]:
        """Return numbers of the finished training; called before `finalize`.

        They are stored in the run's manifest and in metrics.json; claims read them as `runs.<run>.reported.<method>.<key>`.
        A text under the key `stated` is printed with every score (a privacy budget).
        """
        return {}

    def finalize(self, model: PreTrainedModel) -> PreTrainedModel:
        """Return the model to evaluate and store: merged, masked, packed."""
        return model

    def expected(self, model: PreTrainedModel) -> dict[str, float]:
        """Return the prepared model's counts by the paper's formula, which the meters' counts must equal.

        Keys are meters' names: `trainable_parameters`, `total_parameters`, `nonzero_parameters`, `storage_bits`.
        """
        return {}

    def cost(self, model: PreTrainedModel) -> dict[str, Any]:
        """Return numbers of the method's own for the meter `method_cost`, from a prepared model on any device, meta included.

        An override may take more parameters, each with a default; a paper sets them as options of the meter (`method_cost: {length: 64}`).
        """
        return {}

    def schedule(self, total_steps: int) -> dict[str, float]:
        """Return the method's schedule in a run of `total_steps`, for the meter `config: {total_steps: …}`: steps, shares of a run."""
        return {}

    def export(self, model: PreTrainedModel, path: Path, batch_size: int, length: int) -> dict[str, float]:
        """Write the finished model to the ONNX file `path`, time it on batches of (batch_size, length), and return the measures.

        Called for runs that measure with `runtime: onnxruntime`; a method without an export writes no file.
        """
        return {}
