"""The meters by name with their options, checked without importing torch, and how each one runs on a measured model."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from replica.config.validation import explain
from replica.errors import ConfigError, nearest
from replica.meters.dataset_rows import RowsOptions

if TYPE_CHECKING:
    from replica.config.project import Project
    from replica.config.schema import Measurement

Share = Annotated[float, Field(gt=0, le=1)]
Bits = Annotated[float, Field(gt=0)]
Rule = Literal["adamw", "adamw8bit", "sgd", "adafactor", "lion", "galore", "galore8bit"]
Projector = Literal["float32", "bfloat16", "float16", "int8"]
Dtype = Literal["float32", "bfloat16", "float16"]


class Options(BaseModel):
    """Base of every meter's options: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ParametersOptions(Options):
    """`parameters` takes none."""


class FlopsOptions(Options):
    """What `measure_flops` is given."""

    batch: int = Field(1, ge=1)
    length: int = Field(128, ge=1)
    decoder_length: int | None = Field(None, ge=1, description="encoder-decoder models: length of the labels")
    backward: bool = False
    density: Share | dict[str, Share] | None = Field(
        None, description="share of a matrix's values that are kept, by part or glob"
    )


class StorageOptions(Options):
    """What `storage_bytes` is given."""

    bits: Bits | dict[str, Bits] | None = Field(
        None, description="bits a value, by part or glob; a number means layer_linears"
    )
    default_bits: float = Field(32, gt=0)
    density: Share | dict[str, Share] | None = None
    index: Literal["none", "mask"] | Annotated[int, Field(ge=1)] = "none"
    scales: dict[str, Literal["tensor", "row"]] | None = None
    exclude: list[str] = []


def check_rank(rule: str | None, rank: int | None, projector: str | None) -> None:
    """Raise ValueError for a rule of GaLore without a rank, and for a rank or projector of a rule that has none."""
    low_rank = rule is not None and rule.startswith("galore")
    if low_rank and rank is None:
        raise ValueError(f"{rule} needs its `rank`, e.g. rank: 128")
    given = "rank" if rank is not None else "projector" if projector is not None else None
    if not low_rank and given:
        raise ValueError(f"`{given}` belongs to galore and galore8bit; {rule or 'no optimizer'} has none")


class OptimizerOptions(Options):
    """What `optimizer_bytes` is given."""

    rule: Rule = "adamw"
    block: int = Field(2048, ge=1)
    momentum: float = Field(0.9, ge=0)
    all: bool = Field(False, description="state for all parameters, not only the trainable ones")
    dtype: Dtype = Field("float32", description="type of a value of state that is not quantised")
    rank: int | None = Field(None, ge=1, description="GaLore's rank; required by its rules")
    projector: Projector | None = Field(None, description="type of GaLore's projectors; `dtype` when absent")

    @model_validator(mode="after")
    def _rank_of_galore(self) -> OptimizerOptions:
        check_rank(self.rule, self.rank, self.projector)
        return self


class MemoryOptions(Options):
    """What `measure_memory` is given."""

    batch: int = Field(32, ge=1)
    length: int = Field(128, ge=1)
    decoder_length: int | None = Field(None, ge=1)
    optimizer: Rule | None = "adamw"
    train: bool = True
    dtype: Dtype = "float32"
    attention: Literal["eager", "fused"] = "eager"
    dropout: bool = True
    padding: bool = False
    checkpointing: bool = False
    era: Literal["today", "2021"] = "today"
    foreach: bool = False
    rank: int | None = Field(None, ge=1, description="GaLore's rank; required by its rules")
    projector: Projector | None = Field(None, description="type of GaLore's projectors; `dtype` when absent")
    per_layer: bool = Field(
        False, description="update each parameter when its gradient is complete, and free the gradient"
    )
    autocast: Literal["bfloat16", "float16"] | None = Field(None, description="forward pass in mixed precision")
    rounding: int = Field(1, ge=1, description="bytes that every storage is rounded up to; 512 on CUDA")
    all_states: bool = Field(
        False, description="optimizer state exists for frozen parameters too: each was trained once"
    )
    budget_gb: float | None = Field(None, gt=0, description="GB (10**9) that the largest batch must fit in")

    @model_validator(mode="after")
    def _rank_of_galore(self) -> MemoryOptions:
        check_rank(self.optimizer, self.rank, self.projector)
        return self


class ConfigOptions(Options):
    """`config`: for how many steps a schedule is given."""

    total_steps: int | None = Field(None, ge=1)


class MethodCostOptions(BaseModel):
    """`method_cost` hands every option on to the methods' `cost`."""

    model_config = ConfigDict(extra="allow", frozen=True)


class LinearPathOptions(Options):
    """What `measure_path` is given."""

    points: int = Field(
        30, ge=2, description="evenly spaced points on the line between two states, its ends among them"
    )


class SearchSpaceOptions(Options):
    """What `measure_space` is given."""

    ranges: dict[str, tuple[float, float, float]] = Field(description="number of a shape: its lowest, highest and step")


METERS: dict[str, type[BaseModel]] = {
    "parameters": ParametersOptions,
    "flops": FlopsOptions,
    "storage": StorageOptions,
    "optimizer": OptimizerOptions,
    "memory": MemoryOptions,
    "method_cost": MethodCostOptions,
    "config": ConfigOptions,
    "linear_path": LinearPathOptions,
    "search_space": SearchSpaceOptions,
}

#: Meters of a measurement that names a data set.
DATA_METERS: dict[str, type[BaseModel]] = {"rows": RowsOptions}

#: What each meter takes for granted; written beside its results.
ASSUMPTIONS = {
    "parameters": "a tensor that several modules share counts once",
    "flops": "2 per multiply-add; matrix products and convolutions only; eager attention; no padding",
    "storage": "1 byte is 8 bits, nothing is aligned; 32 bits is the baseline",
    "optimizer": "state in `dtype` unless the rule says otherwise; step counters not counted",
    "memory": "live tensor storages of two training steps; no kernel workspaces, allocator rounding or device context",
    "method_cost": "as each method's `expected` and `cost` say",
    "config": "the methods' configuration as it is run",
    "linear_path": "one forward pass a point; running statistics are interpolated as weights are",
    "search_space": "every number takes each of its values with each of the others; heads cost a twelfth of the width",
}


@dataclass
class Measured:
    """A model under measurement: as built and prepared, what it counted before its methods, and those methods by name."""

    model: Any
    base_parameters: int
    methods: dict[str, Any]


def parse_meters(
    meters: Mapping[str, Mapping[str, Any]],
    where: str = "meters",
    known: Mapping[str, type[BaseModel]] = METERS,
) -> dict[str, BaseModel]:
    """Check the meters of a measurement and their options; raises ConfigError with the nearest known name. Imports no torch.

    `known` are the meters of a model, or `DATA_METERS`, those of a data set.
    """
    parsed = {}
    for name, options in meters.items():
        if name not in known and name in (METERS | DATA_METERS):
            what, right = ("a data set", "dataset") if name in DATA_METERS else ("a model", "model")
            raise ConfigError(f"{where}: the meter '{name}' is of {what}; name one with `{right}:`")
        if name not in known:
            raise ConfigError(f"{where}: unknown meter '{name}'{nearest(name, known)}")
        try:
            parsed[name] = known[name](**(options or {}))
        except ValidationError as error:
            raise ConfigError(f"{where}.{name}: {explain(error, known[name])}") from None
    return parsed


def meters_of(measurement: Measurement, where: str = "meters") -> dict[str, BaseModel]:
    """Check a measurement's meters, those of a model or of a data set; raises ConfigError with the nearest known name."""
    if measurement.datasets and "rows" not in measurement.meters:
        raise ConfigError(f"{where}: a data set is measured by the meter 'rows'; write `rows: {{}}`")
    return parse_meters(measurement.meters, where, DATA_METERS if measurement.datasets else METERS)


def check_splits(project: Project, names: list[str], options: RowsOptions) -> list[str]:
    """Return the splits to count; raises ConfigError where a data set is not registered or lacks one of them."""
    entries = {name: project.dataset(name) for name in names}
    splits = list(options.splits) or list(entries[names[0]].splits)
    for name, entry in entries.items():
        for split in splits:
            if split not in entry.splits:
                raise ConfigError(f"data set '{name}' has no split '{split}'{nearest(split, entry.splits)}")
    return splits


def run_meter(name: str, options: BaseModel, measured: Measured) -> dict:
    """Run one meter on a prepared model and return its result, JSON-safe."""
    given = {key: getattr(options, key) for key in type(options).model_fields}
    return plain(_RUNNERS[name](measured, {**given, **(options.model_extra or {})}))


def plain(value: Any) -> Any:
    """Turn results into what JSON holds: dictionaries with string keys, lists, numbers, text and truth values."""
    if isinstance(value, Mapping):
        return {str(key).replace(".", "_"): plain(inner) for key, inner in value.items()}
    if isinstance(value, BaseModel):
        return plain(value.model_dump())
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(inner) for inner in (sorted(value) if isinstance(value, (set, frozenset)) else value)]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return value.item() if hasattr(value, "item") else str(value)


def _parameters(measured: Measured, _options: dict) -> dict:
    from replica.meters.parameters import count_parameters

    counts = count_parameters(measured.model)
    counts["base_total"] = measured.base_parameters
    counts["added"] = counts["total"] - measured.base_parameters
    expected = {name: method.expected(measured.model) for name, method in measured.methods.items()}
    counts["expected"] = {name: value for name, value in expected.items() if value}
    return counts


def _flops(measured: Measured, options: dict) -> dict:
    from replica.meters.flops import measure_flops

    return measure_flops(measured.model, **options)


def _storage(measured: Measured, options: dict) -> dict:
    from replica.meters.storage import storage_bytes

    return storage_bytes(measured.model, **options)


def _optimizer(measured: Measured, options: dict) -> dict:
    from replica.meters.optimizers import optimizer_bytes

    return optimizer_bytes(measured.model, every=options.pop("all"), **options)


def _memory(measured: Measured, options: dict) -> dict:
    from replica.meters.memory import measure_memory

    return measure_memory(measured.model, **options)


def _method_cost(measured: Measured, options: dict) -> dict:
    costs = {}
    takes = {name: _options_of(method) for name, method in measured.methods.items()}
    known = {option for options in takes.values() for option in options}
    for option in options:
        if option not in known:
            raise ConfigError(f"method_cost: no method of the measurement takes '{option}'{nearest(option, known)}")
    for name, method in measured.methods.items():
        mine = {option: value for option, value in options.items() if option in takes[name]}
        costs[name] = {"expected": method.expected(measured.model), **method.cost(measured.model, **mine)}
    return _with_single(costs)


def _options_of(method: Any) -> list[str]:
    """Return the names of what a method's `cost` takes besides the model."""
    return list(inspect.signature(method.cost).parameters)[1:]


def _config(measured: Measured, options: dict) -> dict:
    configs = {}
    for name, method in measured.methods.items():
        configs[name] = method.config.model_dump()
        schedule = {} if options["total_steps"] is None else method.schedule(options["total_steps"])
        if schedule:
            configs[name]["schedule"] = schedule
    numbers = {k: v for k, v in measured.model.config.to_dict().items() if isinstance(v, (bool, int, float))}
    return {"model": numbers, **_with_single(configs)}


def _linear_path(measured: Measured, options: dict) -> dict:
    from replica.meters.linear_path import measure_path

    return measure_path(measured.model, **options)


def _search_space(_measured: Measured, options: dict) -> dict:
    from replica.meters.search_space import measure_space

    return measure_space(**options)


def _with_single(by_method: dict[str, dict]) -> dict:
    """Let the keys of the only method stand at the top too, beside those under its name."""
    only = next(iter(by_method.values())) if len(by_method) == 1 else {}
    return {**only, **by_method}


_RUNNERS = {
    "parameters": _parameters,
    "flops": _flops,
    "storage": _storage,
    "optimizer": _optimizer,
    "memory": _memory,
    "method_cost": _method_cost,
    "config": _config,
    "linear_path": _linear_path,
    "search_space": _search_space,
}
