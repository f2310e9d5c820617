"""The base of all kinds of task: facts that planning reads, and the hooks that prepare, batch, predict and score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from replica.errors import ConfigError
from replica.models.heads import DECODERS, LABELLED
from replica.tasks.columns import IGNORED, Columns

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    import torch
    from torch import nn

    from replica.config.task_schema import Task
    from replica.tasks.prepared import PreparedSplit
    from replica.tasks.tokenizer import TextTokenizer

#: Entries of a batch that no model takes.
NOT_MODEL_INPUTS = ("example_id", "task")

#: Entries of a batch that are right answers; a model that predicts does not get them.
ANSWERS = ("labels", "start_positions", "end_positions", "next_sentence_label")


def model_inputs(batch: dict[str, torch.Tensor], *, answers: bool = False) -> dict[str, torch.Tensor]:
    """Return the entries of a batch that a model takes, with the right answers or without."""
    others = NOT_MODEL_INPUTS if answers else (*NOT_MODEL_INPUTS, *ANSWERS)
    return {key: value for key, value in batch.items() if key not in others}


@dataclass
class Encoded:
    """One split as columns (`replica.tasks.preparation.TYPES`), with the table's row of each.

    `examples` has one row per question of a reading task; `facts` go into the prepared folder's `facts.json`.
    """

    columns: Columns
    rows: Sequence[int]
    examples: pd.DataFrame | None = None
    facts: dict[str, Any] = field(default_factory=dict)


class Kind:
    """A kind of task. A subclass is a module of this folder with the kind's name; planning imports it, so its methods import torch,
    transformers, pandas and pyarrow themselves."""

    name: ClassVar[str]
    #: The hub's name for its models.
    pipeline: ClassVar[str]
    #: The answers are texts that the model generates.
    generated: ClassVar[bool] = False
    #: There are predictions to score.
    scored: ClassVar[bool] = True
    #: Inputs are tokens.
    tokenized: ClassVar[bool] = True
    #: Its texts may come with images (`images`).
    sees_images: ClassVar[bool] = False
    #: Predictions repeat texts of the data set.
    quotes: ClassVar[bool] = False
    #: Prediction reads entries of the batch that the model itself does not take.
    whole_batches: ClassVar[bool] = False

    #: Fewest and most columns of `inputs`.
    input_counts: ClassVar[tuple[int, int]] = (1, 2)

    #: Column with a label for each token.
    label_column: ClassVar[str | None] = None

    def check(self, task: Task) -> None:
        """Raise ConfigError for fields of a task's file that this kind does not have."""
        where = f"config/tasks: task '{task.name}'"
        fewest, most = self.input_counts
        if not fewest <= len(task.inputs) <= most:
            wanted = str(fewest) if fewest == most else f"{fewest} to {most}"
            raise ConfigError(f"{where}: kind {self.name} takes {wanted} columns of `inputs`, not {len(task.inputs)}")
        if task.images is not None and not self.sees_images:
            raise ConfigError(
                f"{where}: `images` goes with kind text2text, not {self.name}; kind image has them in `inputs`"
            )
        if not self.generated and (task.merge or task.generation != type(task.generation)()):
            raise ConfigError(
                f"{where}: `merge` and `generation` go with texts that are generated (text2text, completion), not {self.name}"
            )

    def check_facts(self, task: Task, facts: dict[str, Any]) -> None:
        """Raise ConfigError for prepared data that batches of this kind can not be made of."""

    def head(self, task: Task) -> str:
        """Return the name of the head that a model of the task has."""
        return self.name

    def teacher_head(self, task: Task) -> str:
        """Return the head that a registered model gets when it teaches this task."""
        return "text"

    def scored_with(self, task: Task) -> tuple[Any, ...]:
        """Describe the task's head: one model is scored on two tasks if this is equal for both."""
        return self.name, task.next_sentence, 0 if self.generated else task.class_count

    def label_count(self, task: Task) -> int:
        """Return the size of a task's head: the number of classes where there are such, else 2.

        Raises ConfigError for classes that are neither named nor counted.
        """
        if self.name in LABELLED and not task.class_count:
            raise ConfigError(
                f"config/tasks: task '{task.name}': kind {self.name} needs `labels` (names in order) or `classes` (their number)"
            )
        return task.class_count or 2

    def row_length(self, length: int) -> int:
        """Return the most tokens of a row whose texts are cut to `length`."""
        return length

    def logits_share(self, task: Task) -> float | None:
        """Return the share of tokens at which training computes the vocabulary's logits; None: at none."""
        return 1.0 if self.name in DECODERS else None

    def encode(
        self, task: Task, table: pa.Table, tokenizer: TextTokenizer, max_length: int, *, train: bool, asset: Path
    ) -> Encoded:
        """Encode a split; `asset` is the folder of the tokenizer, or for images of the model whose preprocessing they get."""
        raise NotImplementedError

    def batch(
        self, task: Task, facts: dict[str, Any], rows: list[dict[str, Any]], seed: int, epoch: int
    ) -> dict[str, torch.Tensor]:
        """Return the tensors of rows of a prepared split whose `facts` these are: tokens, and `targets`."""
        from replica.tasks.collator import token_batch

        return token_batch(rows, facts) | self.targets(task, rows, facts)

    def targets(self, task: Task, rows: list[dict[str, Any]], facts: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Return the tensors of right answers: `labels` `(batch, length)` where rows have `label_column`, -100 at padding."""
        if self.label_column is None:
            return {}
        from replica.tasks.collator import padded, padded_length

        return {"labels": padded([row[self.label_column] for row in rows], padded_length(rows, facts), IGNORED)}

    def loss(self, task: Task, model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the task's own training loss (scalar): the model's cross-entropy, for numbers its squared error."""
        return model(**model_inputs(batch, answers=True)).loss

    def predict(
        self,
        model: nn.Module,
        task: Task,
        batch: dict[str, torch.Tensor],
        rows: list[dict[str, Any]],
        split: PreparedSplit,
    ) -> list[dict[str, Any]]:
        """Return the columns of the table of predictions for each row of a batch."""
        raise NotImplementedError

    def assemble(self, task: Task, split: PreparedSplit, predictions: pd.DataFrame) -> pd.DataFrame:
        """Return the table of predictions from that of all rows."""
        return predictions
