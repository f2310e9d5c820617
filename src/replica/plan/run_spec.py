"""A run's specification: everything that decides which numbers the run computes. Imports no torch.

Its `content` is hashed into the run's id and stored in the run's manifest as `spec`, so the form of that dictionary must not change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ModelSpec:
    """A registered model: hashes of its configuration and of its weights' files (`random` where it starts untrained)."""

    name: str
    config: str
    weights: str

    @property
    def random(self) -> bool:
        """Whether the weights are drawn, not read."""
        return self.weights == "random"


@dataclass(frozen=True)
class TaskSpec:
    """A task with its version, and the id of its data, tokenized for the run's model."""

    name: str
    version: int
    data: str

    def content(self) -> dict[str, Any]:
        """Return the form in a manifest."""
        return {"task": [self.name, self.version], "data": self.data}

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> TaskSpec:
        """Return the task of a mapping that has `task` and `data`."""
        return cls(*content["task"], content["data"])


@dataclass(frozen=True)
class RunSpec:
    """The specification of a run.

    `root` is the registered model at the start of the chain of parents. `methods` have name, version and the options that differ from
    their defaults; `train` likewise (None for stage `targets`). `tune` maps each candidate's id to the value that it tries.
    """

    stage: str
    root: str
    task: TaskSpec
    tokenizer: str
    #: version of the training loop
    training: int
    methods: list[dict[str, Any]] = field(default_factory=list)
    train: dict[str, Any] | None = None
    model: ModelSpec | None = None
    teacher: ModelSpec | None = None
    beside: TaskSpec | None = None
    together: tuple[TaskSpec, ...] = ()
    tune: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def tasks(self) -> list[TaskSpec]:
        """The tasks that the run trains, in the order in which adapters count them."""
        return [self.task, *self.together]

    @property
    def method_names(self) -> list[str]:
        """Registered names of the methods, in order."""
        return [item["name"] for item in self.methods]

    def content(self) -> dict[str, Any]:
        """Return the specification as a manifest has it; absent parts have no key."""
        parts = {
            "stage": self.stage,
            "training": self.training,
            "model": self.model and vars(self.model),
            "teacher": self.teacher and vars(self.teacher),
            "methods": self.methods,
            "train": self.train,
            **self.task.content(),
            "tokenizer": self.tokenizer,
            "beside": self.beside and self.beside.content(),
            "together": [task.content() for task in self.together] or None,
            "tune": self.tune or None,
            "root": self.root,
        }
        return {key: value for key, value in parts.items() if value is not None}

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> RunSpec:
        """Return the specification that has this content, as the plan or a manifest stores it."""
        parts = dict(content)
        parts["task"] = TaskSpec(*parts["task"], parts.pop("data"))
        for role in {"model", "teacher"} & parts.keys():
            parts[role] = ModelSpec(**parts[role])
        if "beside" in parts:
            parts["beside"] = TaskSpec.read(parts["beside"])
        parts["together"] = tuple(TaskSpec.read(task) for task in parts.get("together", ()))
        return cls(**parts)
