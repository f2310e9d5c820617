"""A paper's structural measurements: models at their published size on the meta device, and rows of data sets that are at hand."""

from __future__ import annotations

import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers

from replica.errors import AssetError, ConfigError, ReplicaError
from replica.measure.runners import Measured, plain, run_meter
from replica.meters.dataset_rows import RowsOptions, count_rows
from replica.meters.parameters import count_parameters
from replica.meters.registry import check_splits, meters_of
from replica.methods.base import Context
from replica.methods.registry import parse_all
from replica.models import build

if TYPE_CHECKING:
    from replica.config import Project
    from replica.config.schema import Measurement


#: Errors of torch and transformers for a model, head, method or batch that they cannot make.
CANNOT = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError)


def measure_paper(project: Project, paper_id: str, report: Callable[[str], None] = lambda line: None) -> dict:
    """Measure everything that a paper's `measurements:` name; needs no weights, no network and no accelerator.

    Returns `{"paper", "versions", "measurements": {name: {meter: {...}, "assumptions": {...}}}}`, safe for JSON. `report` gets one
    line for each measurement. A measurement of a data set that is not at hand is `{"unavailable": reason}`: its claims are not
    run, and the paper's others are measured. Raises ConfigError naming the measurement for an unknown model, method, meter or option.
    """
    paper = project.paper(paper_id)
    where = f"{paper.file}: measurements"
    checked = {name: meters_of(m, f"{where}.{name}.meters") for name, m in paper.measurements.items()}
    results = {}
    for name, measurement in paper.measurements.items():
        start = time.perf_counter()
        try:
            results[name] = one_line(lambda m=measurement, n=name: measure(project, m, checked[n]), "the model")
        except ReplicaError as error:
            raise type(error)(f"{where}.{name}: {error}") from error
        outcome = results[name].get("unavailable") or f"{time.perf_counter() - start:.1f} s"
        report(f"{paper_id}: {name}: {', '.join(checked[name])} ({outcome})")
    return {"paper": paper_id, "versions": _versions(), "measurements": results}


def measure(project: Project, measurement: Measurement, meters: dict[str, Any] | None = None) -> dict:
    """Run one measurement's meters."""
    meters = meters if meters is not None else meters_of(measurement)
    if measurement.datasets:
        return count(project, measurement.datasets, meters["rows"])
    results: dict[str, Any] = {}
    measured = prepare(project, measurement)
    for name, options in meters.items():
        results[name] = run_meter(name, options, measured)
    results["assumptions"] = {name: options.assumption for name, options in meters.items()}
    for name, options in meters.items():
        shown = plain(options)
        if shown:
            results["assumptions"][f"{name}_options"] = shown
    return results


def count(project: Project, names: list[str], options: RowsOptions) -> dict:
    """Count the rows of data sets as one, split by split; `{"unavailable": reason}` where one of them is not at hand whole.

    Raises ConfigError for an unknown data set, split or column.
    """
    from replica.assets.at_hand import read_at_hand

    splits = check_splits(project, names, options)
    parts: dict[str, list] = {split: [] for split in splits}
    sources = []
    shown = {"rows": options.assumption, "rows_options": plain(options.model_dump(exclude_defaults=True))}
    shown["licence"] = "; ".join(dict.fromkeys(project.dataset(name).licence for name in names))
    with tempfile.TemporaryDirectory() as scratch:
        try:
            for name in names:
                rows, source = read_at_hand(project, name, splits, Path(scratch))
                sources.append(source)
                for split in splits:
                    parts[split].append(rows[split])
            counted = count_rows(parts, options)
        except AssetError as error:
            return {"unavailable": f"the data is not at hand: {error}", "assumptions": shown}
    return {"rows": plain(counted), "assumptions": {**shown, "source": "; ".join(dict.fromkeys(sources))}}


def one_line(program: Callable[[], Any], where: str) -> Any:
    """Call a program; an error of torch or transformers becomes a ConfigError of one line that begins with `where`."""
    try:
        return program()
    except ReplicaError:
        raise
    except CANNOT as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ConfigError(f"{where} cannot be measured: {reason[:300]}") from error


def prepare(project: Project, measurement: Measurement) -> Measured:
    """Build a measurement's model on meta and apply its methods in their order; with `stored` also finalize them."""
    model = build(
        project.model(measurement.model),
        head=measurement.head,
        labels=measurement.labels,
        device="meta",
        attention="eager",
        changes=dict(measurement.config),
    )
    base = count_parameters(model)["total"]
    methods = {}
    for entry, config in parse_all(measurement.methods):
        _check_rank(entry.name, config, model.config)
        methods[entry.name] = entry.create(config)
    context = Context(head=measurement.head)
    for method in methods.values():
        method.prepare(model, context)
    if measurement.stored:
        for method in methods.values():
            model = method.finalize(model)
    return Measured(model=model, base_parameters=base, methods=methods)


def _check_rank(method: str, config: Any, model_config: Any) -> None:
    """Raise ConfigError for a rank above the model's width: such a factorisation is larger than the matrix."""
    rank, width = getattr(config, "rank", None), getattr(model_config, "hidden_size", None)
    if isinstance(rank, int) and isinstance(width, int) and rank > width:
        raise ConfigError(f"method '{method}': rank {rank} is above the width {width} of the model")


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__}
