"""Where everything lies below the root of a checkout; rules, scripts and the command line agree on it here."""

from __future__ import annotations

from pathlib import Path


class Layout:
    """Paths of assets, results and resume state below `root`."""

    def __init__(self, root: Path | str = "."):
        self.root = Path(root)
        self.assets = self.root / "assets"
        self.results = self.root / "results"
        self.state = self.root / "state"

    def dataset(self, name: str) -> Path:
        """Folder of a retrieved data set."""
        return self.assets / "datasets" / name

    def model(self, name: str) -> Path:
        """Folder of a retrieved model."""
        return self.assets / "models" / name

    def prepared(self, prepared_id: str) -> Path:
        """Folder of a task's tokenized data."""
        return self.assets / "prepared" / prepared_id

    def run(self, scale: str, run_id: str, seed: int) -> Path:
        """Folder of one seed of a run."""
        return self.results / scale / "runs" / run_id / f"seed{seed}"

    def resume(self, scale: str, run_id: str, seed: int) -> Path:
        """Folder of a run's resume checkpoints; never a declared output."""
        return self.state / scale / run_id / f"seed{seed}"

    def structural(self, paper: str) -> Path:
        """A paper's structural measurements."""
        return self.results / "structural" / f"{paper}.json"

    def paper(self, scale: str, paper: str) -> Path:
        """Folder of a paper's claims, tables and figures."""
        return self.results / scale / "papers" / paper
