"""The report of `replica measure`: the cost of training a model, measured on the meta device without weights, and printed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from rich.console import Console
from rich.table import Table

from replica.cli import terminal
from replica.cli.measure import Request
from replica.config.asset_schema import ModelEntry
from replica.config.schema import Measurement
from replica.errors import ConfigError, ReplicaError
from replica.measure.runners import Measured, plain, run_meter
from replica.measure.structural import one_line, prepare
from replica.meters.options import Options, ParametersOptions
from replica.meters.semantics import notes
from replica.methods.registry import entries

#: Columns of a log, which has no width of its own.
LOG_WIDTH = 140


def report_of(name: str, entry: ModelEntry, request: Request) -> dict[str, Any]:
    """Measure a model with the request's methods; returns everything that is printed, safe for JSON."""
    measured, head, labels = build(name, entry, request, request.methods)
    meters: dict[str, Options] = {
        "parameters": ParametersOptions(),
        "flops": request.flops,
        "memory": request.memory,
        "storage": request.storage,
    }
    if request.optimizer is not None:
        meters["optimizer"] = request.optimizer
    results = {meter: run(name, head, meter, options, measured) for meter, options in meters.items()}
    if request.memory.era != "today":
        today = request.memory.model_copy(update={"era": "today"})
        results["memory_today"] = run(name, head, "memory", today, measured)
    assumptions = {meter: options.assumption for meter, options in meters.items()}
    return {
        "model": name,
        "architecture": entry.architecture,
        "head": head,
        "labels": labels,
        "methods": plain(request.methods),
        "request": request.model_dump(mode="json", include={"memory", "flops", "optimizer"}, exclude_unset=True),
        **results,
        "assumptions": {**assumptions, "notes": assumptions_beyond_meters(measured, request)},
    }


def build(name: str, entry: ModelEntry, request: Request, methods: list[dict[str, Any]]) -> tuple[Measured, str, int]:
    """Build a model on meta with methods in it; returns it with its head and number of labels."""
    head = request.head or usual_head(entry)
    labels = request.labels or (usual_labels(entry) if head == "image" else 2)
    measurement = Measurement(model=name, head=head, labels=labels, methods=methods, meters={})
    project = SimpleNamespace(model=lambda _: entry)
    measured = one_line(lambda: prepare(project, measurement), f"{name} with head '{head}'")
    if request.memory.decoder_length and not getattr(measured.model.config, "is_encoder_decoder", False):
        raise ConfigError(f"--decoder-length: {name} has no decoder beside an encoder; leave it out")
    return measured, head, labels


def usual_labels(entry: ModelEntry) -> int:
    """Return the classes of the images that a model of this size is made for: ImageNet's, or CIFAR-10's and MNIST's."""
    side = entry.config.get("image_size", 224)
    return 10 if isinstance(side, int) and side <= 64 else 1000


def usual_head(entry: ModelEntry) -> str:
    """Return the head under which an architecture is usually fine-tuned."""
    from replica.models.factory import make_config
    from replica.models.heads import has_head

    config = make_config(entry.architecture, entry.config, head="none", labels=2)
    if getattr(config, "is_encoder_decoder", False) and has_head(config, "text2text"):
        return "text2text"
    for head, sign in (
        ("image", "image"),
        ("ctc", "ctc"),
        ("classification", "mlm"),
        ("causal", "causal"),
        ("projection", "projection"),
    ):
        if has_head(config, sign) and has_head(config, head):
            return head
    return "none"


def run(name: str, head: str, meter: str, options: Options, measured: Measured) -> dict[str, Any]:
    """Run one meter; operations that a model cannot do on the meta device raise a ConfigError of one line."""
    return one_line(lambda: run_meter(meter, options, measured), f"{name} with head '{head}': {meter}")


def assumptions_beyond_meters(measured: Measured, request: Request) -> list[str]:
    """Return the assumptions of this measurement that follow from its options, architecture and methods."""
    memory = request.memory
    lines = [
        f"memory: batch {memory.batch}, no padding, {memory.attention} attention, dropout as a GPU keeps it, "
        f"everything in {memory.dtype}, the rules of {memory.era}",
        *notes(measured.model),
    ]
    for reference in request.methods:
        entry = entries()[reference["name"]]
        if changes := " and ".join(sorted(entry.changes & {"loss", "optimizer"})):
            lines.append(
                f"{entry.name} changes the {changes}: measured with the model's own loss and the optimizer named"
            )
        if entry.needs_teacher:
            lines.append(f"{entry.name} needs a teacher, whose memory and FLOPs are not counted")
    return lines


# --- methods within a budget --------------------------------------------------------------------------------------------


def fitting(name: str, entry: ModelEntry, request: Request, budget: float) -> list[dict[str, Any]]:
    """Measure full training and every registered method by itself at its defaults; methods within the budget come first.

    A row has `method`, `trainable`, `trainable_share`, `peak`, `fits`, or `skipped` with the reason. Methods that only change
    the loss, or need a teacher, are left out: they train the same parameters as full training.
    """
    rows = []
    for method in [None, *sorted(entries())]:
        registered = entries()[method] if method else None
        if registered is not None and (
            not registered.changes - {"loss", "optimizer", "schedule"} or registered.needs_teacher
        ):
            continue
        row: dict[str, Any] = {"method": method or "full training"}
        try:
            measured, head, _ = build(name, entry, request, [{"name": method}] if method else [])
            counts = run(name, head, "parameters", ParametersOptions(), measured)
            memory = run(name, head, "memory", request.memory, measured)
        except ReplicaError as error:
            rows.append({**row, "skipped": str(error)})
            continue
        row |= {key: counts[key] for key in ("trainable", "trainable_share")}
        rows.append({**row, "peak": memory["peak"], "fits": memory["peak"] <= budget})
    return sorted(rows, key=lambda row: ("skipped" in row, not row.get("fits"), row.get("peak", 0)))


# --- printing -----------------------------------------------------------------------------------------------------------


def make_console() -> Console:
    """Return a console as wide as the terminal, or wide enough for every line where there is none."""
    console = terminal.plain_console()
    return console if console.is_terminal else terminal.plain_console(width=max(console.width, LOG_WIDTH))


def print_report(report: dict[str, Any]) -> None:
    """Print parameters, FLOPs, optimizer state, memory and stored bytes, then their assumptions."""
    console = make_console()
    methods = ", ".join(_reference(method) for method in report["methods"]) or "trained in full"
    labels = f", {report['labels']} labels" if report["head"] in ("classification", "tagging", "image", "audio") else ""
    title = f"{report['model']} ({report['architecture']}, head {report['head']}{labels}): {methods}"
    console.print(title, style="bold")
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, justify="right")
    table.add_column(overflow="fold")
    for row in _rows(report):
        table.add_row(*row)
    console.print(table)
    console.print("assumes:")
    for meter, assumed in report["assumptions"].items():
        for line in [f"{meter}: {assumed}"] if isinstance(assumed, str) else assumed:
            console.print(f"  {line}")


def print_budget(budget: dict[str, Any]) -> None:
    """Print which methods fit, by memory and trainable share, and why others were not measured."""
    console = make_console()
    rows = budget["methods"]
    measured = [row for row in rows if "skipped" not in row]
    table = Table(title=f"what fits {gb(budget['bytes'])}, smallest peak first", title_justify="left", box=None)
    for column, justify in (
        ("method", "left"),
        ("peak", "right"),
        ("fits", "left"),
        ("trained", "right"),
        ("share", "right"),
    ):
        table.add_column(column, justify=justify, no_wrap=True)
    for row in measured:
        table.add_row(
            row["method"],
            gb(row["peak"]),
            "yes" if row["fits"] else "no",
            f"{row['trainable']:,}",
            percent(row["trainable_share"]),
        )
    console.print()
    console.print(table)
    for row in rows:
        if "skipped" in row:
            console.print(f"not measured: {row['method']}: {row['skipped']}")
    if not any(row["fits"] for row in measured):
        console.print("nothing fits: try a smaller batch or length, --dtype bfloat16 or --attention fused")


def _rows(report: dict[str, Any]) -> list[tuple[str, str, str]]:
    counts, flops, memory, storage = (report[key] for key in ("parameters", "flops", "memory", "storage"))
    rows = [
        ("parameters", f"{counts['total']:,}", f"{counts['added']:+,} by methods" if counts["added"] else ""),
        ("trained", f"{counts['trainable']:,}", percent(counts["trainable_share"])),
        (
            "FLOPs of a step",
            flop(flops["total"]),
            f"forward {flop(flops['forward'])}, backward {flop(flops['backward'])}",
        ),
    ]
    if "optimizer" in report:
        state = report["optimizer"]
        request = dict(report["request"]["optimizer"])
        rule = _reference({"name": request.pop("rule"), **request})
        saved = f", {percent(state['saving'])} less than AdamW's" if abs(state["saving"]) > 5e-5 else ""
        rows.append(("optimizer state", gb(state["bytes"]), f"{rule}{saved}"))
    era = report["request"]["memory"]["era"]
    era = "" if era == "today" else f", the rules of {era}"
    rows.append(("peak memory", gb(memory["peak"]), f"reached in {memory['peak_phase']}{era}, when it holds"))
    for category, size in memory["at_peak"].items():
        if size:
            rows.append((f"  {category}", gb(size), ""))
    rows.append(("kept for backward", gb(memory["saved_bytes"]), "of the forward pass's results"))
    if "memory_today" in report:
        today = report["memory_today"]
        rows.append(("peak memory today", gb(today["peak"]), f"reached in {today['peak_phase']}, the rules of today"))
    rows.append(("stored", gb(storage["bytes"]), f"{storage['bits_per_parameter']:.4g} bits a parameter"))
    for method, expected in counts["expected"].items():
        if "storage_bits" in expected:
            rows.append((f"stored by {method}", gb(expected["storage_bits"] / 8), "as the method packs it"))
    return rows


def _reference(method: dict[str, Any]) -> str:
    values = ", ".join(f"{key}={value}" for key, value in method.items() if key != "name")
    return f"{method['name']}({values})" if values else method["name"]


def gb(size: float) -> str:
    """Write bytes in GB (10**9) or MB (10**6)."""
    return f"{size / 1e9:,.2f} GB" if size >= 1e9 else f"{size / 1e6:,.2f} MB"


def flop(count: float) -> str:
    """Write FLOPs with the prefix of their size."""
    for prefix, size in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if count >= size:
            return f"{count / size:,.2f} {prefix}FLOP"
    return f"{count:,.0f} FLOP"


def percent(share: float) -> str:
    """Write a share in per cent, with digits enough for a small one."""
    return f"{100 * share:.2f} %" if share >= 0.01 or not share else f"{100 * share:.4f} %"
