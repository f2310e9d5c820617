"""How `replica measure` prints its report: aligned lines for a terminal, the same without colour in a log."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

#: Columns of a log, which has no width of its own.
LOG_WIDTH = 140


def make_console() -> Console:
    """Return a console as wide as the terminal, or wide enough for every line where there is none."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=max(console.width, LOG_WIDTH))


def print_report(report: dict[str, Any]) -> None:
    """Print parameters, FLOPs, optimizer state, memory and stored bytes, then what they assume."""
    console = make_console()
    methods = ", ".join(_reference(method) for method in report["methods"]) or "trained in full"
    labels = f", {report['labels']} labels" if report["head"] in ("classification", "tagging", "image", "audio") else ""
    title = f"{report['model']} ({report['architecture']}, head {report['head']}{labels}): {methods}"
    console.print(f"[bold]{escape(title)}[/bold]")
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, justify="right")
    table.add_column(overflow="fold")
    for row in _rows(report):
        table.add_row(*map(escape, row))
    console.print(table)
    console.print("assumes:")
    for meter, said in report["assumptions"].items():
        for line in [f"{meter}: {said}"] if isinstance(said, str) else said:
            console.print(f"  {escape(line)}")


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
            console.print(f"not measured: {escape(row['method'])}: {escape(row['skipped'])}")
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
        rule = _reference({"name": state_rule(report), **_options(report["request"]["optimizer"])})
        saved = f", {percent(state['saving'])} less than AdamW's" if abs(state["saving"]) > 5e-5 else ""
        rows.append(("optimizer state", gb(state["bytes"]), f"{rule}{saved}"))
    era = memory_era(report)
    rows.append(("peak memory", gb(memory["peak"]), f"reached in {memory['peak_phase']}{era}, when it holds"))
    for category, size in memory["at_peak"].items():
        if size:
            rows.append((f"  {category}", gb(size), ""))
    rows.append(("kept for backward", gb(memory["saved_bytes"]), "of what the forward pass makes"))
    if "memory_today" in report:
        today = report["memory_today"]
        rows.append(("peak memory today", gb(today["peak"]), f"reached in {today['peak_phase']}, the rules of today"))
    rows.append(("stored", gb(storage["bytes"]), f"{storage['bits_per_parameter']:.4g} bits a parameter"))
    for method, expected in counts["expected"].items():
        if "storage_bits" in expected:
            rows.append((f"stored by {method}", gb(expected["storage_bits"] / 8), "as the method packs it"))
    return rows


def state_rule(report: dict[str, Any]) -> str:
    """Return the optimizer's rule."""
    return report["request"]["optimizer"]["rule"]


def memory_era(report: dict[str, Any]) -> str:
    """Say under which era's rules, where they are not today's."""
    era = report["request"]["memory"]["era"]
    return "" if era == "today" else f", the rules of {era}"


def _options(request: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in request.items() if key != "rule"}


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
