"""`replica explain` walks a claim's number back to its data; `replica scorecard` prints the verdicts of a ledger."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

from rich.text import Text

from replica.cli.terminal import console, plain_console
from replica.errors import ConfigError, nearest
from replica.paths import Layout
from replica.report.site.stored_runs import StoredRun, stored_runs


def add(verbs: Any) -> None:
    """Add the verbs `explain` and `scorecard` to the command line."""
    verb = verbs.add_parser("explain", help="walk a claim's number back to its jobs, configuration, data and weights")
    verb.set_defaults(run=explain)
    verb.add_argument("claim", help="a claim of the ledger, e.g. compacter-params or minilm-retain-99pct:trend")
    card = verbs.add_parser("scorecard", help="print the verdicts of a ledger")
    card.set_defaults(run=print_scorecard)
    for each in (verb, card):
        each.add_argument("--ledger", help="ledger to read (default: results/claims.json)")


def ledger_of(root: str, path: str | None) -> tuple[Path, list[dict[str, Any]]]:
    """Return the path and the rows of a ledger: the one at `path`, or the root's; raises ResultError where there is none."""
    from replica.claims.ledger import read_ledger

    ledger = Path(path) if path else Path(root) / "results" / "claims.json"
    return ledger, read_ledger(ledger)


def explain(arguments: Namespace) -> int:
    """Print the paper's number and ours for each row of a claim, and the chain of runs behind ours."""
    path, rows = ledger_of(arguments.root, arguments.ledger)
    claim = arguments.claim
    chosen = [row for row in rows if row["claim"] == claim or row["claim"].startswith(f"{claim}:")]
    if not chosen:
        raise ConfigError(f"{path}: no claim '{claim}'{nearest(claim, (row['claim'] for row in rows))}")
    layout = Layout(arguments.root)
    runs = {scale: stored_runs(layout.results, scale) for scale in {row["scale"] for row in chosen}}
    for row in chosen:
        console.print(Text(f"{row['paper']} / {row['claim']}", "bold"), f" ({row['evidence']}, {row['metric']})")
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
            _explain_run(layout, runs[row["scale"]], row["scale"], run_id, "  ", set())
    return 0


def _run_ids(row: dict[str, Any]) -> list[str]:
    runs = row["runs"] or []
    return runs.split() if isinstance(runs, str) else list(runs)


def _explain_run(
    layout: Layout, runs: dict[str, StoredRun], scale: str, run_id: str, indent: str, seen: set[str]
) -> None:
    if run_id in seen:
        console.print(f"{indent}{run_id} (above)")
        return
    seen.add(run_id)
    seeds = [seed for seed in runs[run_id].seeds if seed.manifest] if run_id in runs else []
    if not seeds:
        console.print(f"{indent}{run_id}: not here at scale {scale}")
        return
    facts = seeds[0].manifest
    spec = facts["spec"]
    console.print(Text(indent).append(run_id, "bold"), f" {len(seeds)} seed(s), {seeds[0].folder.parent}")
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
        _explain_run(layout, runs, scale, parent["run"], indent + "    ", seen)


def print_scorecard(arguments: Namespace) -> int:
    """Print the scorecard of a ledger."""
    from replica.report.scorecard import scorecard

    path, rows = ledger_of(arguments.root, arguments.ledger)
    plain_console().print(scorecard(rows))
    page = path.parent / "report" / "index.html"
    if page.exists():
        console.print(f"report: {page.resolve()}")
    return 0
