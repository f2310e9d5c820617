"""The training loop: transformers.Trainer with methods' hooks, batches of like length and resume to equal results."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainerCallback, TrainerState, TrainingArguments

from replica.config.schema import Train
from replica.errors import DivergedError, TrainingError
from replica.files import read_result, write_json
from replica.methods.base import Context, Method
from replica.methods.peft.layers import select_task
from replica.methods.registry import EXCLUSIVE
from replica.tasks import LengthBucketSampler, MixedSampler, MixedSplit
from replica.tasks.mixed_tasks import TASK
from replica.training import checkpoints, distributed, micro_batches
from replica.training.cost import PeakMemory
from replica.training.interruption import Interruption
from replica.training.precision import choose
from replica.training.steps import line as progress_line

#: Of a checkpoint: the line of the history that was begun and not yet written.
LINE = "line.json"


@dataclass
class Outcome:
    """The result of a training call: `finished` is False after SIGTERM or SIGUSR1."""

    finished: bool
    step: int
    history: list[dict[str, Any]]
    seconds: float
    precision: str
    memory: dict[str, Any]


class _Hooks(TrainerCallback):
    """Hands the Trainer's events to the methods, keeps the history, prints progress, stops when asked to."""

    def __init__(self, loop: Loop):
        self.loop = loop
        self.started = time.monotonic()

    def _each(self, hook: str, state: Any) -> None:
        context = self.loop.context
        context.step, context.epoch = state.global_step, state.epoch or 0.0
        context.optimizer = self.loop.optimizer
        for method in self.loop.methods:
            getattr(method, hook)(self.loop.model, context)

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.loop.sampler.set_epoch(int((state.epoch or 0.0) + 1e-6))
        self._each("on_epoch_begin", state)

    def on_step_begin(self, args, state, control, **kwargs):
        self.loop.memory.begin(self.loop.model, self.loop.optimizer)
        self._each("on_step_begin", state)

    def on_gradients(self, state):
        self._each("on_gradients", state)

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if args.max_grad_norm <= 0:  # else they acted before the clipping
            self.on_gradients(state)

    def on_step_end(self, args, state, control, **kwargs):
        self._each("on_step_end", state)
        self.loop.memory.end(self.loop.model)
        if distributed.anywhere(self.loop.interruption.requested, args.device):
            control.should_save = control.should_training_stop = True

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs is None or "loss" not in logs:
            return
        entry = state.log_history[-1]
        entry.update({key: float(value) for key, value in self.loop.context.recorded.items()})
        done, total = state.global_step, state.max_steps
        rate = (done - self.loop.first_step) / max(1e-9, time.monotonic() - self.started)
        left = (total - done) / rate if rate > 0 else 0.0
        distributed.say(progress_line(done, total, float(logs["loss"]), rate, left))

    def on_train_begin(self, args, state, control, **kwargs):
        if self.loop.resumed_from is not None:
            self.loop.take_up_line(self.loop.resumed_from)

    def on_save(self, args, state, control, **kwargs):
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        self.loop.keep_line(folder)
        distributed.barrier()  # every process writes the state of its own random numbers
        if distributed.first():
            checkpoints.seal(folder, self.loop.origin)


class Loop(Trainer):
    """A Trainer whose objective, optimizer and schedule may come from a method."""

    def __init__(
        self,
        model: PreTrainedModel,
        train: Train,
        *,
        split: Any,
        collate: Any,
        context: Context,
        methods: list[tuple[frozenset[str], Method]],
        objective: Callable[[PreTrainedModel, dict[str, torch.Tensor], Context], torch.Tensor],
        state_folder: Path,
        origin: str = "",
        parts: int = 1,
        interruption: Interruption | None = None,
    ):
        processes = distributed.processes()
        batch = micro_batches.whole(train.batch_size, train.accumulate, processes)
        self.split, self.context, self._collate_rows = split, context, collate
        self.origin = origin
        self.methods = [method for _, method in methods]
        # batches: a method's own sampler, else the loop's; each process computes its parts of them
        samplers = (method.sampler(len(split), batch, context.seed, [collate]) for method in self.methods)
        self._methods_sampler = next((sampler for sampler in samplers if sampler is not None), None)
        own = self._methods_sampler  # one without a batch is no reason to take another
        self.sampler = _sampler(split, batch, context.seed, collate) if own is None else own
        self.own_parts = micro_batches.PartSampler(self.sampler, parts, distributed.rank(), processes)
        self._weights: list[float] = []
        # objective, optimizer and schedule: at most one method's each
        self._own = {aspect: method for changes, method in methods for aspect in changes & EXCLUSIVE.keys()}
        self._objective = self._own["loss"].loss if "loss" in self._own else objective
        self._objective_name = type(self._own["loss"]).__name__ if "loss" in self._own else "the task's loss"
        self.precision = choose(train.precision)
        # signals, memory, and the step to go on from
        self.interruption = interruption or Interruption()
        self.memory = PeakMemory()
        self.first_step = 0
        self.resumed_from: Path | None = None
        self.hooks = _Hooks(self)
        arguments = _arguments(train, context, state_folder, self.precision, batch, parts, processes)
        super().__init__(model=model, args=arguments, callbacks=[self.hooks])
        self.model_accepts_loss_kwargs = False
        self.remove_callback(PrinterCallback)
        if context.teacher is not None:
            context.teacher.to(self.args.device)

    @property
    def _shared(self) -> bool:
        """Whether a batch of the sampler is computed in more than one piece."""
        return self.own_parts.parts * self.own_parts.processes > 1

    def get_train_dataloader(self) -> DataLoader:
        """Batches of like length, or this process's parts of them."""
        sampler = self.own_parts if self._shared else self.sampler
        return DataLoader(self.split, batch_sampler=sampler, collate_fn=self._collate)

    def _collate(self, rows: list[Any]) -> Any:
        """Make a batch; of a shared one with its count. A part without rows is a row whose count is EMPTY.

        For the method whose own sampler draws batches without rows, that row has the number -1.
        """
        batch = self._collate_rows(rows or [self.split[0]])
        if not rows and self._methods_sampler is not None:
            batch["example_id"] = torch.full_like(batch["example_id"], -1)
        if not self._shared:
            return batch
        return batch, micro_batches.counted(batch) if rows else micro_batches.EMPTY

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """Take a step's batches; where they are parts, weigh each by its share of the whole batch over all processes."""
        samples, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self._shared:
            counts = [count for _, count in samples]
            samples = [batch for batch, _ in samples]
            parts, processes = self.own_parts.parts, self.own_parts.processes
            wholes = torch.tensor(counts, dtype=torch.float32, device=device).clamp(min=0).reshape(-1, parts).sum(1)
            self._weights = micro_batches.weights(counts, distributed.total(wholes), parts, processes)
        return samples, items

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Return the objective's scalar; a loss that is not finite ends the run and names step and method."""
        with torch.autocast(self.args.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            inner = self.accelerator.unwrap_model(model)
            if TASK in inputs:  # a batch of a run over several tasks
                select_task(inner, int(inputs[TASK][0]))
            loss = inside(model, inner, lambda: self._objective(inner, inputs, self.context))
        if not torch.isfinite(loss.detach()):
            raise DivergedError(
                f"the loss is {float(loss.detach())} at step {self.state.global_step + 1} of {self.state.max_steps} "
                f"(objective: {self._objective_name}, learning rate {self._get_learning_rate():.3g}); "
                "lower the rate or look at the batch"
            )
        if self._weights:
            loss = loss * self._weights.pop(0)
        return (loss, None) if return_outputs else loss

    def _clip_grad_norm(self, model):
        """Let methods act on the gradients, then clip: the norm is that of the gradients that the optimizer uses."""
        self.hooks.on_gradients(self.state)
        return super()._clip_grad_norm(model)

    def create_optimizer(self, *args, **kwargs):
        """Use a method's optimizer where one brings it."""
        if "optimizer" in self._own and self.optimizer is None:
            self.optimizer = self._own["optimizer"].optimizer(self.model, self.context)
        return super().create_optimizer(*args, **kwargs) if self.optimizer is None else self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer=None):
        """Use a method's learning-rate factor where one brings it."""
        if "schedule" in self._own and self.lr_scheduler is None:
            method = self._own["schedule"]
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                optimizer or self.optimizer, lambda step: method.learning_rate_factor(step, self.context)
            )
            self._created_lr_scheduler = True
        return (
            super().create_scheduler(num_training_steps, optimizer) if self.lr_scheduler is None else self.lr_scheduler
        )

    def _save(self, output_dir: str | None = None, state_dict=None):
        from safetensors.torch import save_model

        Path(output_dir).mkdir(parents=True, exist_ok=True)
        save_model(self.accelerator.unwrap_model(self.model), str(Path(output_dir) / "model.safetensors"))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None):
        from safetensors.torch import load_model

        load_model(model or self.model, str(Path(resume_from_checkpoint) / "model.safetensors"))

    def keep_line(self, folder: Path) -> None:
        """Write the unfinished line of the history into a checkpoint: the losses' sum, its first step, methods' values."""
        loss = distributed.total(self._tr_loss.detach().clone()).item() / distributed.processes()
        if distributed.first():
            recorded = {key: float(value).hex() for key, value in self.context.recorded.items()}
            facts = {"loss": loss, "since": self._globalstep_last_logged, "recorded": recorded}
            write_json(folder / LINE, facts)

    def take_up_line(self, folder: Path) -> None:
        """Go on with the line of the history that a checkpoint was written in, so that it ends as without the stop."""
        facts = read_result(
            folder / LINE, {"loss": float, "since": int, "recorded": dict}, f"remove {folder.parent} to start again"
        )
        self._tr_loss += facts["loss"]
        self._globalstep_last_logged = facts["since"]
        self.context.record(**{key: float.fromhex(value) for key, value in facts["recorded"].items()})

    def floating_point_ops(self, inputs) -> int:
        """Skip the Trainer's estimate; FLOPs are measured by the meters."""
        return 0

    def fit(self) -> Outcome:
        """Train to the last step, resuming from the newest complete checkpoint; save and stop when `interruption` is requested."""
        folder = Path(self.args.output_dir)
        resume = distributed.from_first(checkpoints.latest(folder, self.origin) if distributed.first() else None)
        self.resumed_from = resume
        if resume is not None:
            self.first_step = int(resume.name.rpartition("-")[2])
            distributed.say(f"resuming at step {self.first_step} from {resume}")
        if not distributed.first():  # with the first one's dropout, equal places of all shares would be dropped alike
            torch.manual_seed(self.context.seed + 1_000_003 * distributed.rank())
        started = time.monotonic()
        if self.first_step >= self.args.max_steps:  # killed between the last step and the storing of the result
            self._load_from_checkpoint(str(resume))
            self.state = TrainerState.load_from_json(str(resume / "trainer_state.json"))
        elif distributed.anywhere(self.interruption.requested, self.args.device):
            self.state.global_step, self.state.max_steps = self.first_step, self.args.max_steps
        else:
            try:
                self.train(resume_from_checkpoint=str(resume) if resume else None)
            finally:
                self.memory.close()
            stopped = distributed.anywhere(self.interruption.requested, self.args.device)
            if self.state.global_step < self.args.max_steps and not stopped:
                raise TrainingError(
                    f"training ended at step {self.state.global_step} of {self.args.max_steps}: an epoch over its {len(self.split)} "
                    "rows gave no batch"
                )
        return Outcome(
            finished=self.state.global_step >= self.state.max_steps,
            step=self.state.global_step,
            history=[entry for entry in self.state.log_history if "loss" in entry],
            seconds=time.monotonic() - started,
            precision=self.precision,
            memory=self.memory.facts(),
        )


def _schedule(train: Train) -> str:
    """Return the library's name of the schedule; with a floor the cosine falls to that share of the peak rate."""
    if train.rate_floor:
        return "cosine_with_min_lr"
    return {"constant": "constant_with_warmup"}.get(train.schedule, train.schedule)


def _arguments(
    train: Train, context: Context, folder: Path, precision: str, batch: int, parts: int, processes: int
) -> TrainingArguments:
    """Return the Trainer's arguments: `batch` sentences a micro-batch over all processes, each share of it in `parts` pieces."""
    processor = not torch.cuda.is_available()
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=context.total_steps,
        per_device_train_batch_size=-(-batch // (parts * processes)),
        gradient_accumulation_steps=train.accumulate * parts,
        learning_rate=train.learning_rate,
        weight_decay=train.weight_decay,
        adam_beta1=train.beta1,
        adam_beta2=train.beta2,
        adam_epsilon=train.epsilon,
        max_grad_norm=train.max_grad_norm,
        lr_scheduler_type=_schedule(train),
        lr_scheduler_kwargs={"min_lr_rate": train.rate_floor} if train.rate_floor else {},
        warmup_steps=context.warmup_steps,
        seed=context.seed,
        data_seed=context.seed,
        bf16=precision == "bf16",
        use_cpu=processor,
        logging_steps=max(1, min(50, context.total_steps // 20)),
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=train.checkpoint_every,
        save_total_limit=2,
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        ddp_backend="gloo" if processes > 1 and processor else None,
    )
    arguments._n_gpu = min(1, arguments.n_gpu)  # several GPUs are several processes, never torch's DataParallel
    return arguments


def inside(wrapper: nn.Module, model: nn.Module, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
    """Return `compute()`, called within the forward pass of a wrapper (DistributedDataParallel, …) around `model`.

    An objective may call the model's parts in any order, and only gradients of operations between the wrapper's entry and exit
    are averaged over the processes. So the wrapper is called without arguments, and the model's place in it is taken by
    `compute`, for which the model is itself again. Without a wrapper it is `compute()`.
    """
    if wrapper is model:
        return compute()
    own = vars(model).get("forward")  # accelerate and others set one on the instance

    def restore() -> None:
        vars(model).pop("forward", None)
        if own is not None:
            model.forward = own

    def forward() -> torch.Tensor:
        restore()
        return compute()

    model.forward = forward
    try:
        return wrapper()
    finally:
        restore()


def _sampler(split: Any, batch_size: int, seed: int, collate: Any) -> Any:
    """Return the loop's own batches: of like length, and of one task each where the split has several."""
    if isinstance(split, MixedSplit):
        return MixedSampler(split, batch_size, seed, followers=[collate])
    return LengthBucketSampler(split.lengths, batch_size, seed, followers=[collate])


def total_steps(train: Train, rows: int | list[int]) -> int:
    """Return the optimizer steps of a run over `rows` examples (of each task, where there are several); smaller last batches count."""
    if train.steps is not None:
        return train.steps
    sizes = [rows] if isinstance(rows, int) else rows
    return max(1, round(train.epochs * sum(math.ceil(size / train.batch_size) for size in sizes)))
