"""The pydantic models of papers, runs and claims; `config/schema/` holds JSON Schemas generated from them."""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from replica.config.model_sizes import check_sizes
from replica.config.strict import Count, Id, Seeds, Strict

Stage = Literal["pretrain", "teacher", "targets", "compress", "adapt"]
Evidence = Literal["structural", "full"]
Confidence = Literal["high", "low"]


# --- runs --------------------------------------------------------------------------------------------------------------


class Train(Strict):
    """How a run is optimised. Exactly one of `steps` and `epochs`."""

    steps: Count | None = None
    epochs: float | None = Field(None, gt=0, le=1_000_000)
    batch_size: int = Field(32, ge=1, le=1_000_000, description="sentences per optimizer step, over all devices")
    accumulate: int = Field(1, ge=1, le=1_000_000, description="micro-batches per step")
    learning_rate: float = Field(5e-5, gt=0, lt=10)
    schedule: Literal["linear", "constant", "cosine"] = "linear"
    rate_floor: float = Field(
        0.0, ge=0, lt=1, description="share of the peak rate that a cosine schedule ends at; other schedules have none"
    )
    warmup_steps: int = Field(0, ge=0, le=10**9)
    warmup_share: float = Field(0.0, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.999, ge=0, lt=1)
    epsilon: float = Field(1e-8, gt=0)
    max_grad_norm: float = Field(1.0, ge=0, description="0 switches clipping off")
    max_length: int | None = Field(None, ge=4, le=1_000_000, description="cuts the task's own length")
    train_rows: Count | None = Field(None, description="rows drawn from the train split by the run's seed")
    rows_per_class: Count | None = Field(
        None,
        description="rows of each class drawn from the train split by the run's seed; all where there are fewer",
    )
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    checkpoint_every: Count = 500

    @model_validator(mode="after")
    def _steps_or_epochs(self) -> Train:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of `steps` and `epochs`")
        return self

    @model_validator(mode="after")
    def _floor_of_a_cosine(self) -> Train:
        if self.rate_floor and self.schedule != "cosine":
            raise ValueError(f"`rate_floor` needs `schedule: cosine`, not {self.schedule}")
        return self

    @model_validator(mode="after")
    def _one_way_of_drawing(self) -> Train:
        if self.train_rows is not None and self.rows_per_class is not None:
            raise ValueError("give `train_rows` or `rows_per_class`, not both")
        return self

    @model_validator(mode="after")
    def _whole_micro_batches(self) -> Train:
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"`accumulate: {self.accumulate}` does not divide `batch_size: {self.batch_size}` into whole micro-batches"
            )
        return self


class Measure(Strict):
    """Costs that are measured on a finished run, besides its metrics."""

    latency: bool = False
    batch_size: int = Field(8, ge=1, le=1_000_000)
    length: int = Field(64, ge=1, le=1_000_000)
    runtime: Literal["torch", "onnxruntime"] = "torch"


class RunEntry(Strict):
    """One run as a paper's file gives it; `{name}` in any string is replaced from `matrix`."""

    stage: Stage | None = Field(None, description="required, here or in the run's base")
    description: str = ""
    matrix: dict[str, list[Any]] = {}
    base: str | None = Field(None, description="run of the same section whose entries this one starts from")
    model: str | None = Field(None, description="registered model to start from (weights, or at random)")
    init: str | None = Field(None, alias="from", description="run whose finished model this one starts from")
    random_init: bool = Field(False, description="take the architecture but not the weights")
    teacher: str | None = Field(None, description="run or registered model that teaches")
    targets: str | None = Field(None, description="run of stage `targets` with the teacher's stored signals")
    task: str | None = None
    together: list[str] = Field(
        [],
        description="tasks trained with `task` in one run, a batch being of one of them; adapters count the tasks in this order",
    )
    beside: str | None = Field(None, description="task whose training text a method reads in addition to the run's own")
    methods: list[dict[str, Any] | str] = []
    train: dict[str, Any] = {}
    tune: dict[str, list[Any]] = Field({}, description="train key: values tried at the first seed, chosen on `select`")
    seeds: Literal["all", "one"] = Field("all", description="`one`: a single run that all children's seeds share")
    evaluate: list[str] | None = Field(None, description="tasks; the run's own when absent")
    measure: Measure = Measure()
    gpus: int = Field(0, ge=0, le=100_000)


# --- claims ------------------------------------------------------------------------------------------------------------


class Tolerance(Strict):
    """How near ours must lie to the paper's number to match, and why."""

    absolute: float | None = Field(None, ge=0)
    relative: float | None = Field(None, ge=0)
    digits: int | None = Field(
        None, ge=-15, le=15, description="equal after rounding to this many decimals of the claim's unit"
    )
    reason: str

    @model_validator(mode="after")
    def _one_kind(self) -> Tolerance:
        if sum(v is not None for v in (self.absolute, self.relative, self.digits)) != 1:
            raise ValueError("give exactly one of absolute, relative and digits")
        return self


class Trend(Strict):
    """The protocol of a laptop experiment, fixed before it runs.

    `effect` is an expression per seed over laptop runs (`runs.<name>.<task>.<metric>`, or `runs.<name>.reported.<method>.<key>` for a
    number that a method reports after training); the 95 % interval is over seeds, paired.
    It is reproduced when the interval lies above `margin` (below, for `direction: below`).
    """

    statement: str
    effect: str
    margin: float = 0.0
    direction: Literal["above", "below"] = "above"
    unit: str = "points"
    seeds: int = Field(3, ge=3, le=1000)
    dataset: str
    split: Literal["report"] = "report"
    metric: str
    quick: bool = Field(False, description="part of `make reproduce`")
    protocol: str = Field(description="arms, backbone, data, budget, tuned rates, as decided before the run")
    reading: str = Field("", description="written after the run: how to read its result, and why")
    shows: dict[str, str] = Field({}, description="arm: expression shown in the table next to the effect")
    floor: float | None = Field(
        None,
        description="score of an untrained arm, with the noise of the report split; an arm not above it (below it, for an "
        "error) makes the comparison inconclusive",
    )
    floor_direction: Literal["above", "below"] = "above"


class Claim(Strict):
    """One number, ordering, ratio or table that a paper printed, and how ours is made.

    `value` is a number, or a table of numbers as nested mappings and lists; each cell becomes a row of the ledger. `ours` is an
    expression (or a template with {0}, {1} for the keys of a cell, or a mapping like `value`) over `measurements` of the paper
    (structural) or `runs.<name>.<task>.<metric>` at paper scale (full).
    """

    id: Id
    kind: str
    statement: str
    evidence: Evidence
    model: str | None = None
    dataset: str | None = None
    split: str | None = None
    metric: str
    value: Any = None
    unit: str | None = None
    baseline: str | None = None
    where: str
    source: str
    confidence: Confidence
    derived: bool = False
    reference: bool = Field(
        False, description="a rival's or a later re-run's number: a reference, not the paper's own claim"
    )
    direction: Literal["higher", "lower", "equal", "at-least", "at-most"] = "equal"
    aggregate: Literal["mean", "median", "max"] = "mean"
    tolerance: Tolerance | None = None
    tolerances: dict[str, Tolerance] = Field({}, description="per cell, by its dotted key or the first part of it")
    ours: str | dict[str, Any] | None = None
    unit_scale: float = Field(1.0, gt=0, description="ours is divided by this, which gives the claim's unit")
    not_run: str | dict[str, str] | None = Field(
        None, description="why there is no measurement (for all, or by cell key)"
    )
    blocked: str | dict[str, str] | None = Field(
        None, description="the obstacle that makes it impossible (for all, or by cell key)"
    )
    explain: str | dict[str, str] | None = Field(
        None, description="why ours differs, when it does (for all, or by cell key)"
    )
    erratum: str | None = Field(None, description="the paper's number contradicts its own formula: how")
    trend: Trend | None = None


class Measurement(Strict):
    """A full-size model, with methods, measured on the meta device; or data sets whose rows are counted."""

    model: str | None = Field(None, description="registered model; this or `dataset`")
    dataset: str | list[str] | None = Field(
        None, description="registered data set, or several counted as one; its only meter is `rows`"
    )
    methods: list[dict[str, Any] | str] = []
    stored: bool = Field(False, description="measure the form that the methods leave to be evaluated and stored")
    head: str = "none"
    labels: int = Field(2, ge=1, le=1_000_000, description="classes of the head")
    config: dict[str, Any] = Field({}, description="changes to the registered configuration")
    meters: dict[str, dict[str, Any]] = Field(description="meter: its options, e.g. flops: {batch: 1, length: 128}")

    @field_validator("config")
    @classmethod
    def _sizes_of_a_model(cls, config: dict[str, Any]) -> dict[str, Any]:
        check_sizes(config)
        return config

    @model_validator(mode="after")
    def _model_or_dataset(self) -> Measurement:
        if (self.model is None) == (self.dataset is None):
            raise ValueError("give exactly one of `model` and `dataset`")
        mine = sorted(self.model_fields_set & {"methods", "head", "labels", "config"})
        if self.dataset is not None and mine:
            raise ValueError(f"`{mine[0]}` goes with a model; a data set has only `meters: {{rows: …}}`")
        if self.dataset == []:
            raise ValueError("`dataset` is an empty list; name a registered data set")
        return self

    @property
    def datasets(self) -> list[str]:
        """Names of the data sets whose rows are counted; empty for a model."""
        return [self.dataset] if isinstance(self.dataset, str) else list(self.dataset or [])


class Figure(Strict):
    """A figure of a paper's page, drawn from rows of the ledger, measurements, runs or histories (`replica.report.points`)."""

    id: Id
    title: str
    kind: Literal["bar", "scatter", "line", "effects", "heatmap"]
    x: str = ""
    y: str = ""
    colour: str = Field("", description="heatmap: label of its colour scale")
    series: dict[str, dict[str, str] | str] = Field({}, description="label: expression(s) for its points")
    log: Literal["", "x", "y", "xy", "colour"] = ""
    per_step: bool = Field(False, description="heatmap of a history: growth of a count per step, since the line before")
    caption: str = ""


class Table(Strict):
    """A table as in the paper: rows and columns of claim cells, each with the paper's number and ours; or laptop runs alone."""

    id: Id
    title: str
    where: str = ""
    claims: list[str] = Field([], description="claims whose cells it shows; two-level keys become row and column")
    arms: dict[str, dict[str, str]] = Field(
        {},
        description="row: column: expression over laptop runs or measurements, shown as the mean over seeds; instead of `claims`",
    )
    transpose: bool = False

    @model_validator(mode="after")
    def _claims_or_arms(self) -> Table:
        if bool(self.claims) == bool(self.arms):
            raise ValueError("give exactly one of `claims` and `arms`")
        return self


class Paper(Strict):
    """One paper: its experiments (`runs`) and its printed numbers (`claims`)."""

    id: str = Field(pattern=r"^[a-z][a-z0-9_]{0,79}$")
    title: str
    authors: str
    year: int
    venue: str
    arxiv: str | None = None
    code: str | None = None
    families: list[str]
    summary: str
    errata: list[str] = []
    seeds: dict[Literal["laptop", "paper"], Seeds] = Field({}, description="seeds of a run without a trend")
    runs: dict[Literal["laptop", "paper"], dict[str, RunEntry]] = {}
    measurements: dict[str, Measurement] = {}
    claims: list[Claim]
    tables: list[Table] = []
    figures: list[Figure] = []

    @property
    def file(self) -> str:
        """The paper's file, as messages name it."""
        return f"config/papers/{self.id}/paper.yaml"

    @field_validator("claims", "tables", "figures")
    @classmethod
    def _ids_once(cls, entries: list[Claim] | list[Table] | list[Figure], info: ValidationInfo) -> Any:
        twice = [name for name, count in Counter(entry.id for entry in entries).items() if count > 1]
        if twice:
            raise ValueError(f"two {info.field_name} have the id {', '.join(twice)}")
        return entries
