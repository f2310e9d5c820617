"""A plan: runs, tokenized data, and the names by which papers know them. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from replica.errors import ConfigError, nearest
from replica.plan.run_spec import RunSpec


@dataclass(frozen=True)
class Resources:
    """The resources that a job requests, and the estimates behind them.

    Requested: `threads`, `mem_mb` and `gpu` (over all of a job's processes; the first two of each node), `nodes` (None where the rule
    does not set it), `runtime` in minutes. Estimated: `seconds`, and of training `gpu_mem_mb` of one GPU (on a processor: of the
    process), `steps`, `flops` and `disk_mb`.
    """

    threads: int
    mem_mb: int
    runtime: int
    gpu: int = 0
    nodes: int | None = None
    seconds: float = 0.0
    gpu_mem_mb: int = 0
    steps: int = 0
    flops: float = 0.0
    disk_mb: float = 0.0


@dataclass
class Run:
    """One run of the plan: its specification, its parents, and the papers and seeds that it is for."""

    id: str
    spec: RunSpec
    #: role (init, teacher, targets) → run id
    parents: dict[str, str]
    #: ids of the runs that try values for this one
    candidates: list[str] = field(default_factory=list)
    single: bool = False
    #: registered models whose weights are read
    models: list[str] = field(default_factory=list)
    #: scored task → id of its tokenized data
    evaluate: dict[str, str] = field(default_factory=dict)
    measure: dict[str, Any] | None = None
    gpus: int = 0
    seeds: set[int] = field(default_factory=set)
    names: set[str] = field(default_factory=set)
    papers: set[str] = field(default_factory=set)

    @property
    def stage(self) -> str:
        """The stage, by which the id begins."""
        return self.spec.stage

    @property
    def rule(self) -> str:
        """The rule that makes the run."""
        return "train" if self.stage in ("pretrain", "teacher") else self.stage

    @property
    def data(self) -> str:
        """Id of the tokenized data of the first task."""
        return self.spec.task.data

    @property
    def prepared(self) -> set[str]:
        """Ids of all tokenized data that training and scoring the run read."""
        own = [*self.spec.tasks, *([self.spec.beside] if self.spec.beside else [])]
        return {*self.evaluate.values(), *(task.data for task in own)}

    @property
    def trained_data(self) -> list[str]:
        """Ids of the tokenized data of `tasks`, in their order."""
        return [task.data for task in self.spec.tasks]

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks that the run trains, in the order in which adapters count them."""
        return [task.name for task in self.spec.tasks]

    @property
    def stored(self) -> str:
        """Name of the run's big artifact."""
        return "signals.safetensors" if self.stage == "targets" else "model.safetensors"


@dataclass(frozen=True)
class Prepared:
    """A task's data tokenized for one tokenizer: the id names its folder below assets/prepared/."""

    id: str
    task: str
    dataset: str
    tokenizer: str
    max_length: int


@dataclass
class Plan:
    """Every run that the enabled papers need at one scale, and the names by which papers know them."""

    scale: str
    runs: dict[str, Run] = field(default_factory=dict)
    prepared: dict[str, Prepared] = field(default_factory=dict)
    #: paper → section → name → run id
    named: dict[str, dict[str, dict[str, str]]] = field(default_factory=dict)
    #: paper → ids of the runs that its claims read
    wanted: dict[str, list[str]] = field(default_factory=dict)
    #: run id → its training resources, once they are estimated
    estimates: dict[str, Resources] = field(default_factory=dict)

    def run(self, run_id: str) -> Run:
        """Return a run by id; raises ConfigError with the nearest known id."""
        if run_id not in self.runs:
            raise ConfigError(f"unknown run '{run_id}' at scale {self.scale}{nearest(run_id, self.runs)}")
        return self.runs[run_id]

    def parent_seed(self, run_id: str, seed: int) -> int:
        """Return the seed of the parent `run_id` that a child's `seed` builds on: the same, or 0 where the parent is single."""
        return 0 if self.runs[run_id].single else seed
