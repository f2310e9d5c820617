"""The meters by name: their options are checked, and the keys of their results are known, without importing torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from pydantic import ValidationError

from replica.config.validation import explain
from replica.errors import ConfigError, nearest
from replica.meters.dataset_rows import RowsOptions
from replica.meters.options import (
    CATEGORIES,
    EXPECTED,
    FLOP_PARTS,
    PARTS,
    ConfigOptions,
    FlopsOptions,
    LinearPathOptions,
    MemoryOptions,
    MethodCostOptions,
    OptimizerOptions,
    Options,
    ParametersOptions,
    SearchSpaceOptions,
    StorageOptions,
)

if TYPE_CHECKING:
    from replica.config.project import Project
    from replica.config.schema import Measurement

#: Meters of a measurement that names a model.
METERS: dict[str, type[Options]] = {
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
DATA_METERS: dict[str, type[Options]] = {"rows": RowsOptions}


def parse_meters(
    meters: Mapping[str, Mapping[str, object]],
    where: str = "meters",
    known: Mapping[str, type[Options]] = METERS,
) -> dict[str, Options]:
    """Check the meters of a measurement and their options; raises ConfigError with the nearest known name.

    `known` are the meters of a model, or `DATA_METERS`, those of a data set.
    """
    parsed = {}
    for name, options in meters.items():
        if name not in known and name in (METERS | DATA_METERS):
            kind, key = ("a data set", "dataset") if name in DATA_METERS else ("a model", "model")
            raise ConfigError(f"{where}: the meter '{name}' is of {kind}; name one with `{key}:`")
        if name not in known:
            raise ConfigError(f"{where}: unknown meter '{name}'{nearest(name, known)}")
        try:
            parsed[name] = known[name].model_validate(options or {})
        except ValidationError as error:
            raise ConfigError(f"{where}.{name}: {explain(error, known[name])}") from None
    return parsed


def meters_of(measurement: Measurement, where: str = "meters") -> dict[str, Options]:
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


def result_names(
    project: Project,
    datasets: list[str],
    meters: Mapping[str, Options],
    methods: Mapping[str, Mapping[str, Iterable[str]]],
) -> list[str]:
    """Return the dotted names of a measurement's results, `<meter>.<key>`, where `*` is any key or keys below.

    `methods` has the names behind each method's `<field>` and `<cost>`. Raises ConfigError for an unknown data set or split.
    """
    names = []
    for meter, options in meters.items():
        if isinstance(options, RowsOptions):
            keys = options.keys_of(check_splits(project, datasets, options))
        else:
            keys = [filled for key in options.result_keys() for filled in _filled(key, methods)]
        names += [f"{meter}.{key}" for key in keys]
    return names


def _filled(key: str, methods: Mapping[str, Mapping[str, Iterable[str]]]) -> list[str]:
    """Return a key with its placeholder replaced by each of its names."""
    for placeholder, values in (("<part>", PARTS), ("<flop_part>", FLOP_PARTS), ("<category>", CATEGORIES)):
        if placeholder in key:
            return [key.replace(placeholder, value) for value in values]
    if "<method>" not in key:
        return [key]
    keys = []
    for method, own in methods.items():
        named = key.replace("<method>", method.replace(".", "_"))
        words = {**own, "<count>": EXPECTED}
        placeholder = next((word for word in words if word in named), None)
        keys += [named.replace(placeholder, word) for word in words[placeholder]] if placeholder else [named]
    if key.startswith("<method>.") and len(methods) == 1:  # the only method's keys are also at the top
        keys += [name.partition(".")[2] for name in keys]
    return keys
