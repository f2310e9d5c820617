"""What a plan holds: runs, tokenized data, and the names that papers know them by. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from replica.errors import ConfigError, nearest


@dataclass
class Run:
    """One run of the plan: what is trained from what, and who asked for it."""

    id: str
    stage: str
    spec: dict[str, Any]
    parents: dict[str, str]
    candidates: list[str]
    single: bool
    data: str | None
    models: list[str]
    seeds: set[int] = field(default_factory=set)
    names: set[str] = field(default_factory=set)
    papers: set[str] = field(default_factory=set)
    evaluate: dict[str, str] = field(default_factory=dict)
    measure: dict[str, Any] | None = None
    gpus: int = 0
    cost: dict[str, float] = field(default_factory=dict)

    @property
    def prepared(self) -> set[str]:
        """Ids of all tokenized data that training and scoring the run read."""
        more = [*self.spec.get("together", []), *([self.spec["beside"]] if "beside" in self.spec else [])]
        return {self.data, *self.evaluate.values(), *(other["data"] for other in more)} - {None}

    @property
    def trained_data(self) -> list[str]:
        """Ids of the tokenized data of `tasks`, in their order."""
        return [self.data, *(other["data"] for other in self.spec.get("together", []))]

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks that the run trains, in the order in which adapters count them."""
        return [self.spec["task"][0], *(other["task"][0] for other in self.spec.get("together", []))]

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
    """Every run that the enabled papers ask for at one scale, and the names that papers know them by."""

    scale: str
    runs: dict[str, Run] = field(default_factory=dict)
    prepared: dict[str, Prepared] = field(default_factory=dict)
    #: paper → section → name → run id
    named: dict[str, dict[str, dict[str, str]]] = field(default_factory=dict)
    #: paper → ids of the runs that its claims read
    wanted: dict[str, list[str]] = field(default_factory=dict)

    def run(self, run_id: str) -> Run:
        """Return a run by id; raises ConfigError with the nearest known id."""
        if run_id not in self.runs:
            raise ConfigError(f"unknown run '{run_id}' at scale {self.scale}{nearest(run_id, self.runs)}")
        return self.runs[run_id]

    def parent_seed(self, run_id: str, seed: int) -> int:
        """Return the seed of the parent `run_id` that a child's `seed` builds on: the same, or 0 where the parent is single."""
        return 0 if self.runs[run_id].single else seed
