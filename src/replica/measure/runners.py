"""Puts a measured model and its methods through the meters."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from torch import nn

from replica.errors import ConfigError, nearest
from replica.meters.flops import measure_flops
from replica.meters.linear_path import measure_path
from replica.meters.memory import measure_memory
from replica.meters.optimizers import optimizer_bytes
from replica.meters.options import ConfigOptions, MethodCostOptions, Options
from replica.meters.parameters import count_parameters
from replica.meters.search_space import measure_space
from replica.meters.storage import storage_bytes
from replica.methods.base import Method


@dataclass
class Measured:
    """A model under measurement with its methods by name, and the number of parameters that it had before them."""

    model: nn.Module
    base_parameters: int
    methods: dict[str, Method]


def run_meter(name: str, options: Options, measured: Measured) -> dict:
    """Run one meter on a prepared model and return its result, safe for JSON."""
    return plain(RUNNERS[name](measured, options))


def plain(value: Any) -> Any:
    """Turn results into JSON's types: dictionaries with string keys (`.` becomes `_`), lists, numbers, text and truth values."""
    if isinstance(value, Mapping):
        return {str(key).replace(".", "_"): plain(inner) for key, inner in value.items()}
    if isinstance(value, BaseModel):
        return plain(value.model_dump())
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(inner) for inner in (sorted(value) if isinstance(value, (set, frozenset)) else value)]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return value.item() if hasattr(value, "item") else str(value)


def _parameters(measured: Measured, _options: Options) -> dict:
    counts = count_parameters(measured.model)
    counts["base_total"] = measured.base_parameters
    counts["added"] = counts["total"] - measured.base_parameters
    expected = {name: method.expected(measured.model) for name, method in measured.methods.items()}
    counts["expected"] = {name: value for name, value in expected.items() if value}
    return counts


def _method_cost(measured: Measured, options: MethodCostOptions) -> dict:
    values = options.model_extra or {}
    accepted = {name: _options_of(method) for name, method in measured.methods.items()}
    known = {option for names in accepted.values() for option in names}
    for option in values:
        if option not in known:
            raise ConfigError(f"method_cost: no method of the measurement takes '{option}'{nearest(option, known)}")
    costs = {}
    for name, method in measured.methods.items():
        own = {option: value for option, value in values.items() if option in accepted[name]}
        costs[name] = {"expected": method.expected(measured.model), **method.cost(measured.model, **own)}
    return _with_single(costs)


def _options_of(method: Method) -> list[str]:
    """Return the names of the arguments of a method's `cost` after the model."""
    return list(inspect.signature(method.cost).parameters)[1:]


def _config(measured: Measured, options: ConfigOptions) -> dict:
    configs = {}
    for name, method in measured.methods.items():
        configs[name] = method.config.model_dump()
        if options.total_steps is not None and (schedule := method.schedule(options.total_steps)):
            configs[name]["schedule"] = schedule
    numbers = {k: v for k, v in measured.model.config.to_dict().items() if isinstance(v, (bool, int, float))}
    return {"model": numbers, **_with_single(configs)}


def _with_single(by_method: dict[str, dict]) -> dict:
    """Copy the keys of the only method to the top."""
    only = next(iter(by_method.values())) if len(by_method) == 1 else {}
    return {**only, **by_method}


#: A function of the measured model and the meter's options, by the meter's name.
RUNNERS = {
    "parameters": _parameters,
    "flops": lambda measured, options: measure_flops(measured.model, options),
    "storage": lambda measured, options: storage_bytes(measured.model, options),
    "optimizer": lambda measured, options: optimizer_bytes(measured.model, options),
    "memory": lambda measured, options: measure_memory(measured.model, options),
    "method_cost": _method_cost,
    "config": _config,
    "linear_path": lambda measured, options: measure_path(measured.model, options.points),
    "search_space": lambda _measured, options: measure_space(options.ranges),
}
