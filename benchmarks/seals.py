"""What the seals cost of a finished laptop run: every check that its jobs make, timed on their own files, as a share of the jobs' time.

`python benchmarks/seals.py CHECKOUT` reads a checkout in which `make reproduce` has run (whose results carry seals), and writes
benchmarks/seals.json. Of each training and evaluation: the hash of the code, the manifests and bytes of tokenized data, weights and
parents, and the reading of results for the claims of all papers. The jobs' time is that of Snakemake's benchmark files.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.cluster import machine  # noqa: E402
from replica import seals  # noqa: E402
from replica.assets import manifest  # noqa: E402
from replica.claims.run_files import read_file, read_lines, stored_seeds  # noqa: E402
from replica.config import load_project  # noqa: E402
from replica.files import write_json  # noqa: E402
from replica.paths import HISTORY, MANIFEST, METRICS, Layout  # noqa: E402
from replica.plan import build_plan  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="checkout with the results of `make reproduce`")
    checkout = parser.parse_args().checkout
    plan, layout = build_plan(load_project(checkout), "laptop"), Layout(checkout)
    start = time.perf_counter()
    seals.code_hash()
    seals.code_facts()
    code = time.perf_counter() - start
    spent = {"code": 0.0, "data": 0.0, "weights": 0.0, "runs": 0.0, "claims": 0.0}
    jobs = 0
    for run_id, numbers in stored_seeds(layout.results / "laptop" / "runs"):
        run = plan.runs[run_id]
        for seed in numbers:
            folder, scored = layout.run("laptop", run_id, seed), len(run.evaluate) > 0
            jobs += 1 + scored
            spent["code"] += code * (1 + scored)
            for name in [*run.trained_data, *run.evaluate.values()]:
                spent["data"] += _timed(manifest.verify, layout.prepared(name))
            for name in run.models:
                spent["weights"] += _timed(manifest.verify, layout.model(name))
            parents = [layout.run("laptop", parent, plan.parent_seed(parent, seed)) for parent in run.parents.values()]
            for place in [*parents, *([folder] if scored else [])]:
                spent["runs"] += _timed(manifest.verify, place)
            for name in (MANIFEST, METRICS):
                spent["claims"] += _timed(read_file, folder / name)
            spent["claims"] += _timed(read_lines, folder / HISTORY)
    total = sum(_seconds(path) for path in (checkout / "benchmarks").glob("*/**/*.tsv"))
    checks = sum(spent.values())
    facts = {
        "jobs": jobs,
        "spent_s": spent,
        "checks_s": checks,
        "jobs_s": total,
        "share": checks / total,
        "machine": machine(),
    }
    write_json(ROOT / "benchmarks" / "seals.json", facts)
    print(f"{checks:.1f} s of {total:.0f} s: {checks / total:.2%}")


def _timed(call: Callable[[Path], Any], path: Path) -> float:
    start = time.perf_counter()
    call(path)
    return time.perf_counter() - start


def _seconds(path: Path) -> float:
    with open(path, encoding="utf-8", newline="") as handle:
        return sum(float(row["s"]) for row in csv.DictReader(handle, delimiter="\t"))


if __name__ == "__main__":
    main()
