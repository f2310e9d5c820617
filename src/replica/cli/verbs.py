"""What the verbs of `replica` do."""

from __future__ import annotations

import json
import os
import socket
from argparse import Namespace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from replica.assets import manifest
from replica.config import Project, load_project
from replica.errors import ConfigError, nearest
from replica.files import read_result
from replica.paths import Layout
from replica.plan import Plan, Run, build_plan
from replica.plan.resources import longest_path, resources_of, widest_point

console = Console(soft_wrap=True)


def planned(arguments: Namespace) -> tuple[Project, Plan]:
    """Return the project and the plan of the named papers (enabled in config/config.yaml or not), or of the enabled ones."""
    project = load_project(
        arguments.root, quick=False if arguments.all else None, papers=list(dict.fromkeys(arguments.papers)) or None
    )
    return project, build_plan(project, arguments.scale)


def plan(arguments: Namespace) -> int:
    """Print what a scale would run."""
    project, made = planned(arguments)
    runs = [run for run in made.runs.values() if run.seeds]
    costs = {run.id: resources_of(project, made, run.id) for run in runs}
    table = Table(title=f"plan at scale {made.scale}: {', '.join(made.named)}", title_justify="left")
    for column in ("stage", "runs", "jobs", "shared by papers", "hours", "disk GB"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for stage in ("pretrain", "teacher", "targets", "compress", "adapt"):
        mine = [run for run in runs if run.stage == stage]
        if mine:
            table.add_row(stage, *_totals(mine, costs))
    table.add_row("all", *_totals(runs, costs), style="bold")
    console.print(table)
    shared = [run for run in runs if len(run.papers) > 1]
    for run in shared:
        console.print(f"shared: {run.id} by {', '.join(sorted(run.papers))}")
    seconds, path = longest_path(project, made)
    gpu_hours = sum(c["seconds"] * c["gpu"] * len(made.runs[i].seeds) for i, c in costs.items()) / 3600
    console.print(
        f"GPU hours (estimated): {gpu_hours:,.1f}; longest path {seconds / 3600:.2f} h over {len(path)} runs:"
    )
    console.print("  " + " → ".join(path))
    widest = widest_point(project, made)
    disk = sum(c["disk_mb"] * len(made.runs[i].seeds) for i, c in costs.items()) / 1000
    console.print(
        f"widest point: {widest['jobs']} training jobs, {widest['gpus']} GPUs at a time; disk for weights: {disk:,.1f} GB"
    )
    if arguments.profile:
        from replica.cli.profile import show

        show(console, project, made, arguments.profile)
    if arguments.runs:
        for run in sorted(runs, key=lambda r: r.id):
            cost = costs[run.id]
            names = ", ".join(sorted(run.names))
            console.print(
                f"{run.id}  seeds {sorted(run.seeds)}  {cost['steps']} steps  {cost['seconds'] / 60:.1f} min  "
                f"threads {cost['threads']}  mem_mb {cost['mem_mb']}  runtime {cost['runtime']}  gpu {cost['gpu']}  "
                f"nodes {cost['nodes']}  GB on {'a GPU' if cost['gpu'] else 'the processor'} {cost['gpu_mem_mb'] / 1000:.1f}  ({names})"
            )
    return 0


def _totals(runs: list[Run], costs: dict[str, dict[str, Any]]) -> list[str]:
    jobs = sum(len(run.seeds) for run in runs)
    hours = sum(costs[run.id]["seconds"] * len(run.seeds) for run in runs) / 3600
    disk = sum(costs[run.id]["disk_mb"] * len(run.seeds) for run in runs) / 1000
    shared = sum(len(run.papers) > 1 for run in runs)
    return [str(len(runs)), str(jobs), str(shared), f"{hours:,.2f}", f"{disk:,.2f}"]


def state_of(layout: Layout, made: Plan, run: Run, seed: int) -> str:
    """Say whether one seed of a run is done, starting, running, interrupted, failed or not run."""
    if (layout.run(made.scale, run.id, seed) / "manifest.json").exists():
        return "done"
    record = layout.resume(made.scale, run.id, seed) / "process.json"
    if record.exists():
        facts = read_result(record, ["pid", "host"])
        if "stopped" in facts:
            return "interrupted"
        if facts["host"] != socket.gethostname():
            return f"started on {facts['host']}"
        try:
            os.kill(facts["pid"], 0)
            return "running"
        except ProcessLookupError:
            return "interrupted"
        except PermissionError:
            return "running"
    if (record.parent / "failed.json").exists():
        return "failed"
    stage = "train" if run.stage in ("pretrain", "teacher") else run.stage
    log = layout.root / "logs" / stage / made.scale / f"{run.id}-seed{seed}.log"
    if not log.exists():
        return "not run"
    return "failed" if log.stat().st_size else "starting"  # a job that fails says why


def ledger_of(root: str, given: str | None) -> tuple[Path, list[dict[str, Any]]]:
    """Return the path and the rows of a ledger: the one given, or the root's; raises ResultError where there is none."""
    from replica.claims.ledger import read_ledger

    path = Path(given) if given else Path(root) / "results" / "claims.json"
    return path, read_ledger(path)


def explain(arguments: Namespace) -> int:
    """Print where a claim's number comes from."""
    path, rows = ledger_of(arguments.root, arguments.ledger)
    wanted = arguments.claim
    found = [row for row in rows if row["claim"] == wanted or row["claim"].startswith(f"{wanted}:")]
    if not found:
        raise ConfigError(f"{path}: no claim '{wanted}'{nearest(wanted, (row['claim'] for row in rows))}")
    layout = Layout(arguments.root)
    for row in found:
        console.print(
            f"[bold]{row['paper']} / {row['claim']}[/bold]  ({row['evidence']}, {row['metric']})", highlight=False
        )
        console.print(
            f"  paper: {row['paper_value']} {row['unit'] or ''}  source: {row['source']} (confidence {row['confidence']})"
        )
        interval = f" [{row['low']}, {row['high']}]" if row["low"] is not None else ""
        console.print(f"  ours:  {row['our_value']}{interval}  verdict: {row['verdict']}  {row['reason'] or ''}")
        if row["evidence"] == "structural":
            console.print(
                f"  measured in {layout.structural(row['paper'])} from config/papers/{row['paper']}/paper.yaml (measurements)"
            )
        for run_id in _run_ids(row):
            _explain_run(layout, row["scale"], run_id, "  ")
    return 0


def _run_ids(row: dict[str, Any]) -> list[str]:
    runs = row["runs"] or []
    return runs.split() if isinstance(runs, str) else list(runs)


def _explain_run(layout: Layout, scale: str, run_id: str, indent: str, seen: set[str] | None = None) -> None:
    seen = set() if seen is None else seen
    if run_id in seen:
        console.print(f"{indent}{run_id} (above)")
        return
    seen.add(run_id)
    folders = sorted(path.parent for path in (layout.results / scale / "runs" / run_id).glob("seed*/manifest.json"))
    if not folders:
        console.print(f"{indent}{run_id}: not here at scale {scale}")
        return
    facts = manifest.read(folders[0])
    spec = facts["spec"]
    console.print(f"{indent}[bold]{run_id}[/bold]  {len(folders)} seed(s), {folders[0].parent}", highlight=False)
    console.print(
        f"{indent}  configuration: {json.dumps({k: spec[k] for k in ('model', 'methods', 'train', 'tune') if k in spec})}"
    )
    weights = facts["files"].get("model.safetensors") or facts["files"].get("signals.safetensors") or {}
    console.print(f"{indent}  weights: sha256 {weights.get('sha256', '-')[:16]} (seed {facts['seed']})")
    data = layout.prepared(spec["data"]) / "manifest.json"
    console.print(f"{indent}  data: {spec['task'][0]} ← {data}{'' if data.exists() else ' (not here)'}")
    hardware = facts.get("hardware", {})
    console.print(
        f"{indent}  made on {hardware.get('gpu') or hardware.get('processor')} in {facts.get('seconds')} s, {facts.get('finished')}"
    )
    script = "targets" if spec["stage"] == "targets" else "train"
    console.print(
        f"{indent}  again: OMP_NUM_THREADS={facts.get('threads', 1)} python scripts/{script}.py --scale {scale}"
        f" --run {run_id} --seed {facts['seed']}"
    )
    for role, parent in facts["parents"].items():
        console.print(f"{indent}  {role}:")
        _explain_run(layout, scale, parent["run"], indent + "    ", seen)


def scorecard(arguments: Namespace) -> int:
    """Print the scorecard of a ledger."""
    from replica.report.scorecard import scorecard as render

    path, rows = ledger_of(arguments.root, arguments.ledger)
    Console().print(render(rows))
    page = path.parent / "report" / "index.html"
    if page.exists():
        console.print(f"report: {page.resolve()}")
    return 0
