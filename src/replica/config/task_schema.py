"""The pydantic model of a task's file in `config/tasks/`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from replica.config.asset_schema import ScaleName
from replica.config.strict import Count, Name, Strict

#: Names of the modules of `replica.tasks.kinds`, which this package does not import.
KINDS = sorted(
    path.stem
    for path in (Path(__file__).parents[1] / "tasks" / "kinds").glob("*.py")
    if path.stem not in ("__init__", "kind")
)
Kind = Literal[tuple(KINDS)]


class HeldOut(Strict):
    """A part of another split, set apart by a seeded hash of each row's group so that it never moves."""

    source: str = Field(alias="from")
    share: float = Field(gt=0, lt=1)
    by: str | None = Field(None, description="column whose equal values stay together; the row itself when absent")


class TaskSplits(Strict):
    """`train` fits weights, `select` chooses rates and steps, `report` gives the number that is shown."""

    train: str
    select: str | HeldOut
    report: str | None = None


class Metric(Strict):
    """A metric by its name in the field and which way is better."""

    name: str
    direction: Literal["higher", "lower"] = "higher"


class Generation(Strict):
    """How texts are generated: the most probable of so many beams; with one, word by word."""

    beams: int = Field(1, ge=1, le=1000)
    length_penalty: float = Field(1.0, description="power of the length that a beam's log-probability is divided by")
    no_repeat: int = Field(0, ge=0, description="no run of so many pieces comes twice in a text; 0 allows it")

    @model_validator(mode="after")
    def _a_penalty_of_beams(self) -> Generation:
        if self.beams == 1 and self.length_penalty != 1:
            raise ValueError("`length_penalty` compares beams: it needs `beams` above 1")
        return self


class Task(Strict):
    """A task as data: data set, columns, splits and metrics. `version` is bumped when its numbers would change."""

    name: Name
    version: Count
    dataset: str
    kind: Kind
    inputs: list[str] = Field(
        description="columns that hold the input (one text, or two for a pair; question, context; image); `a.b` is field b of column a"
    )
    images: str | None = Field(
        None,
        description="text2text: column of a list of images (encoded or pixels), or of regions' features of each image, that the encoder "
        "reads beside the text",
    )
    target: str | None = Field(None, description="column of the label, tags, answers or target text")
    labels: list[str] = []
    classes: int | None = Field(
        None,
        ge=2,
        le=1_000_000,
        description="how many classes, where the target holds their numbers and `labels` does not name them",
    )
    only: dict[str, list[int | str]] = Field(
        {},
        description="column: values; rows with others are left out. Of the target: what stands for `labels`, in order",
    )
    rows: dict[Literal["train", "select", "report"], Count] = Field(
        {}, description="at most so many rows of a part, the first by a stable hash; all where it is not named"
    )
    label_words: dict[str, str] = Field({}, description="text2text, completion: what is generated for each label")
    prefix: str = Field("", description="text2text, completion: what stands before the input")
    merge: bool = Field(
        False,
        description="text2text, completion: except in training, rows with one input are one example with all their targets as references",
    )
    generation: Generation = Generation()
    splits: TaskSplits
    metrics: list[Metric] = Field(min_length=1)
    max_length: int = Field(128, ge=4, le=8192)
    stride: int = Field(0, ge=0, description="span: overlap of windows in tokens")
    mask_share: float = Field(0.15, gt=0, lt=1, description="mlm: share of tokens predicted")
    next_sentence: bool = Field(False, description="mlm: pairs of segments with a next-sentence label")
    standins: dict[ScaleName, str] = {}

    @model_validator(mode="after")
    def _a_label_for_each_class(self) -> Task:
        values = self.only.get(self.target or "")
        if values is not None and self.labels and len(values) != len(self.labels):
            raise ValueError(
                f"`only` keeps {len(values)} values of '{self.target}', and `labels` names {len(self.labels)}"
            )
        return self

    @model_validator(mode="after")
    def _named_or_counted(self) -> Task:
        if self.classes is not None and self.labels:
            raise ValueError("give `labels`, or `classes` where they have no names here, not both")
        return self

    @property
    def class_count(self) -> int:
        """How many classes the task has; 0 where its target is no class."""
        return len(self.labels) or self.classes or 0

    @property
    def primary(self) -> Metric:
        """The metric that selection uses: the first."""
        return self.metrics[0]
