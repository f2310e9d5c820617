"""Where everything lies below the root of a checkout; rules, scripts and the command line agree on it here."""

from __future__ import annotations

from pathlib import Path

#: Hashes and facts of a folder's files, written last: a folder that has it is complete.
MANIFEST = "manifest.json"
#: Files of a run's folder: scores, costs, losses.
METRICS, MEASURES, HISTORY, PREDICTIONS = "metrics.json", "measures.json", "history.jsonl", "predictions.parquet"
#: Files of a run's state folder: the process at work, a failure that would come again, the micro-batches that fit.
PROCESS, FAILED, MEMORY = "process.json", "failed.json", "memory.json"


def job_name(scale: str, run_id: str, seed: int | str) -> str:
    """Return the name of a job of one seed of a run in `logs/` and `benchmarks/`."""
    return f"{scale}/{run_id}-seed{seed}"


class Layout:
    """Paths of assets, results, logs and resume state below `root`. Wildcards in braces may stand for any part."""

    def __init__(self, root: Path | str = "."):
        self.root = Path(root)
        self.assets = self.root / "assets"
        self.results = self.root / "results"
        self.state = self.root / "state"
        self.logs = self.root / "logs"

    def dataset(self, name: str) -> Path:
        """Folder of a retrieved data set."""
        return self.assets / "datasets" / name

    def model(self, name: str) -> Path:
        """Folder of a retrieved model."""
        return self.assets / "models" / name

    def prepared(self, prepared_id: str) -> Path:
        """Folder of a task's tokenized data."""
        return self.assets / "prepared" / prepared_id

    def run(self, scale: str, run_id: str, seed: int | str) -> Path:
        """Folder of one seed of a run."""
        return self.results / scale / "runs" / run_id / f"seed{seed}"

    def resume(self, scale: str, run_id: str, seed: int | str) -> Path:
        """Folder of a run's resume checkpoints; never a declared output."""
        return self.state / scale / run_id / f"seed{seed}"

    def plans(self, scale: str) -> Path:
        """Folder of the plans that are stored for jobs."""
        return self.state / scale / "plans"

    def log(self, rule: str, name: str) -> Path:
        """Log of a job."""
        return self.logs / rule / f"{name}.log"

    def benchmark(self, rule: str, name: str) -> Path:
        """Measured time and memory of a job."""
        return self.root / "benchmarks" / rule / f"{name}.tsv"

    def structural(self, paper: str) -> Path:
        """A paper's structural measurements."""
        return self.results / "structural" / f"{paper}.json"

    def paper(self, scale: str, paper: str) -> Path:
        """Folder of a paper's claims, tables and figures."""
        return self.results / scale / "papers" / paper

    def summary(self, scale: str) -> Path:
        """Folder of ledger, report and bibliography; the smoke scale, which proves no claim, has its own."""
        return self.results / scale if scale == "smoke" else self.results
