"""The protocol that every method follows, and the context that a run hands to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from replica.errors import ConfigError
from replica.tasks.kinds.kind import model_inputs

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel


@dataclass
class Context:
    """What a method may know of the run it is in.

    `teacher` is a frozen model in eval mode (or None). `stored` looks up a teacher's stored signals for a batch (or None).
    `restored` names the methods whose structure was already in the loaded model. `step` counts finished optimizer steps.
    `optimizer` is there once training has begun, for methods whose changes make its state stale. `rows` counts the examples of the
    training split and `batch_size` those of a step; `rows_at` makes a batch of the split's rows at given places, for methods that
    look at data before training or beside its batches; `unseen` a batch of the first rows of the split that choices are made on;
    `beside` a batch of other text that the run names, by step and number of rows (each None where there is none: in measurements).
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
        """Run the model as `forward` does, but in float32 whatever precision the training has (its wrapper of `forward` is left out)."""
        import torch

        wrapped = vars(model).pop("forward", None)
        try:
            with torch.autocast(next(model.parameters()).device.type, enabled=False):
                return self.forward(model, batch)
        finally:
            if wrapped is not None:
                model.forward = wrapped

    def signals(self, method: Method, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the teacher's signals for a batch: those stored once if there are any, else from the teacher now."""
        if self.stored is not None:
            return self.stored(batch)
        import torch

        with torch.no_grad():
            return method.teacher_signals(self.teacher, batch, self)

    def examples(self, places: list[int], model: nn.Module) -> dict[str, torch.Tensor]:
        """Return a batch of the training split's rows at these places, on the model's device; ConfigError where there is no data."""
        if self.rows_at is None:
            raise ConfigError("this method looks at training data before it trains; there is none here")
        device = next(model.parameters()).device
        return {key: value.to(device) for key, value in self.rows_at(places).items()}

    def drawn(self, count: int, purpose: int = 0) -> list[int]:
        """Return `count` places of the training split (all, if there are no more) in an order drawn by seed and purpose."""
        import numpy as np

        if self.rows_at is None:
            raise ConfigError("this method looks at training data before it trains; there is none here")
        return np.random.default_rng([self.seed, 0xF15, purpose]).permutation(self.rows)[:count].tolist()

    def record(self, **values: float) -> None:
        """Keep values (a partial loss, the sparsity now) for the next line of the run's history."""
        self.recorded.update(values)


class Method:
    """A method's hooks; each does nothing unless the method says otherwise.

    A subclass holds its configuration as `self.config`. It shares no implementation with other methods by inheritance: what two
    of them need is a function in their family.
    """

    #: For stored teacher signals: axis names per signal, e.g. `{"attention": ("heads", "length", "length")}`.
    signal_axes: ClassVar[dict[str, tuple[str, ...]]] = {}

    #: The name that the method is registered under; set by the registry.
    name: str = ""

    def __init__(self, config: Any):
        self.config = config

    def fail(self, text: str) -> NoReturn:
        """Raise ConfigError with the method's name before the text."""
        raise ConfigError(f"method '{self.name or type(self).__name__}': {text}")

    def prepare(self, model: PreTrainedModel, context: Context) -> None:
        """Put the method into the model in place: inject, freeze, mask, quantise. Must work on the meta device.

        Where `context.restored` names this method, its modules and weights are there already.
        """

    def restore(self, model: PreTrainedModel) -> None:
        """Rebuild in place the modules that a stored model of this method has, before its weights are loaded."""

    def loss(self, model: PreTrainedModel, batch: dict[str, torch.Tensor], context: Context) -> torch.Tensor:
        """Return the scalar training loss. Called only for methods that register `loss` among their changes."""
        raise NotImplementedError(f"{type(self).__name__} registers a loss and has none")

    def teacher_signals(
        self, teacher: PreTrainedModel, batch: dict[str, torch.Tensor], context: Context
    ) -> dict[str, torch.Tensor]:
        """Return what the loss needs of the teacher for this batch; can be stored once when inputs do not change."""
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
        """Act when the step's gradients are complete, before the optimizer uses them."""

    def on_step_end(self, model: PreTrainedModel, context: Context) -> None:
        """Act after the optimizer's step."""

    def on_epoch_begin(self, model: PreTrainedModel, context: Context) -> None:
        """Act at the start of an epoch."""

    def training_rows(self, rows: int, seed: int) -> list[int] | None:
        """Return the places, of `rows`, of the examples that the run's own batches are made of; None for all."""
        return None

    def sampler(self, rows: int, batch_size: int, seed: int, followers: list[Any]) -> Any:
        """Return a batch sampler over `rows` examples that takes the place of the loop's; None for that one.

        Its `set_epoch` calls that of the followers. It may give batches without rows: these come to `loss` as one row numbered -1.
        """
        return None

    def reported(self, model: PreTrainedModel, context: Context) -> dict[str, float | int | str | None]:
        """Return numbers of the finished training; called before `finalize`.

        They stand in the run's manifest and beside its scores in metrics.json; claims read them as `runs.<run>.reported.<method>.<key>`.
        A text `stated` is printed with every score (a privacy budget).
        """
        return {}

    def finalize(self, model: PreTrainedModel) -> PreTrainedModel:
        """Return the form that is evaluated and stored: merged, masked, packed."""
        return model

    def expected(self, model: PreTrainedModel) -> dict[str, float]:
        """Return what the prepared model must count to.

        Keys are meters' names: `trainable_parameters`, `total_parameters`, `nonzero_parameters`, `storage_bits`.
        """
        return {}
