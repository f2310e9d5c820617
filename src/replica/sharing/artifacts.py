"""The artifacts of a plan: data sets, models, tokenized data, runs and results, each published as one archive."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from replica.config.project import Project
from replica.config.schema import Paper
from replica.errors import ReplicaError
from replica.files import read_json
from replica.paths import MANIFEST, MEASURES, METRICS, PREDICTIONS
from replica.plan import Plan, Run
from replica.plan.outputs import HERE
from replica.report.names import figure_files, table_files
from replica.tasks import kinds

#: Snakemake's mark of a folder it made; other names that begin with a dot are leftovers.
STAMP = ".snakemake_timestamp"
#: Files of a scale's ledger and report, below the folder that holds them.
LEDGER_FILES = ("claims.csv", "claims.json", "summary.json", "papers.bib", "report/index.html")
#: The pages that the report's front page leads to, and the file that names them.
PAGES, PAGE_LIST = "report/site", "report/site/files.json"
#: Files of a run's folder that are made from what its manifest names.
MADE_FROM_RUN = (METRICS, MEASURES, PREDICTIONS, "model.onnx", "README.md")


@dataclass(frozen=True)
class Artifact:
    """Files of one folder that are published together, with the facts to search for them, and the data and models in them.

    `id` is also the archive's path below `published/` and, in DVC's spelling, its name in `dvc.yaml`.
    """

    id: str
    kind: str
    folder: str
    type: str
    desc: str
    labels: tuple[str, ...] = ()
    papers: tuple[str, ...] = ()
    #: files of the folder that belong to it, beside those that its manifest or list of pages names
    only: tuple[str, ...] = (MANIFEST,)
    #: folders below its own in which no other file should be
    whole: tuple[str, ...] = (".",)
    #: files without which it is not ready
    needs: tuple[str, ...] = ("manifest.json",)
    #: registered data sets whose rows it passes on
    datasets: tuple[str, ...] = ()
    #: registered models whose weights it passes on
    models: tuple[str, ...] = ()
    #: registered data sets of which its predictions repeat texts
    quoted: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name in `dvc.yaml`: lower-case letters, digits, `-` and `/`, as DVC asks."""
        return "".join(c if c.isalnum() or c in "-/" else "-" for c in self.id.lower())

    @property
    def archive(self) -> str:
        """Path of the archive below the root."""
        return archive_path(self.id)

    def files(self, root: Path) -> list[str]:
        """Return the names of its files that are there, below its folder, in order: those that something names."""
        folder = root / self.folder
        named = set(self.only)
        if MANIFEST in self.only:
            named.update(_listed(folder / MANIFEST, "files"))
        if PAGE_LIST in self.only:
            named.update(f"{PAGES}/{name}" for name in _listed(folder / PAGE_LIST))
        return sorted(name for name in named if (folder / name).is_file())

    def strays(self, root: Path) -> list[str]:
        """Return the names of files and links in its folder that nothing names; names that begin with a dot are left out."""
        folder, named = root / self.folder, set(self.files(root))
        paths = [
            path for part in self.whole for path in (folder / part).rglob("*") if path.is_symlink() or not path.is_dir()
        ]
        names = {path.relative_to(folder).as_posix() for path in paths} - named
        return sorted(name for name in names if not any(part.startswith(".") for part in name.split("/")))

    def missing(self, root: Path) -> list[str]:
        """Return the needed files that are missing."""
        return [name for name in self.needs if not (root / self.folder / name).exists()]


def _listed(path: Path, key: str | None = None) -> list[str]:
    """Return the names in a JSON file, or below a key of it; none where it cannot be read, which the checks of its artifact say."""
    try:
        value = read_json(path)
        return [str(name) for name in (value if key is None else value[key])]
    except (OSError, ReplicaError, KeyError, TypeError):
        return []


def archive_path(name: str) -> str:
    """Return the path of an artifact's archive below the root of the checkout."""
    return f"published/{name}.tar"


def artifacts_of(project: Project, plan: Plan, papers: Iterable[str], runs: Iterable[str] = ()) -> dict[str, Artifact]:
    """Return the artifacts of papers, or of single runs, by id: results, runs with their ancestors, data and models."""
    papers, artifacts = list(papers), {}
    wanted = {run_id: set(plan.runs[run_id].seeds) for run_id in runs}
    for paper in papers:
        for run_id in plan.wanted.get(paper, []):
            wanted.setdefault(run_id, set()).update(plan.runs[run_id].seeds)
    for run_id, seed in _with_ancestors(plan, wanted):
        run = plan.runs[run_id]
        artifacts[_run_id(plan.scale, run_id, seed)] = _run(project, plan, run, seed)
        for prepared in sorted(run.prepared):
            facts = plan.prepared[prepared]
            _add(
                artifacts, _prepared(plan, prepared), _dataset(project, facts.dataset), _model(project, facts.tokenizer)
            )
        for model in run.models:
            _add(artifacts, _model(project, model))
    for paper in papers:
        _add(artifacts, _structural(paper), _paper(plan, project.paper(paper)))
    return dict(sorted(artifacts.items()))


def ledger_of(plan: Plan, papers: Iterable[str]) -> Artifact:
    """Return the ledger and report of a scale, which are those of a set of papers."""
    return Artifact(
        id=f"ledger/{plan.scale}",
        kind="ledger",
        folder=str(HERE.summary(plan.scale)),
        type="results",
        desc=f"ledger and report, scale {plan.scale}",
        labels=(f"scale:{plan.scale}",),
        papers=tuple(sorted(papers)),
        only=(*LEDGER_FILES, PAGE_LIST),
        whole=(PAGES,),
        needs=(*LEDGER_FILES, PAGE_LIST),
    )


def _add(known: dict[str, Artifact], *artifacts: Artifact) -> None:
    known.update({artifact.id: artifact for artifact in artifacts})


def _with_ancestors(plan: Plan, wanted: dict[str, set[int]]) -> list[tuple[str, int]]:
    """Return (run, seed) of the wanted runs and of their ancestors."""
    seen: set[tuple[str, int]] = set()
    left = [(run_id, seed) for run_id, seeds in wanted.items() for seed in seeds]
    while left:
        run_id, seed = left.pop()
        if (run_id, seed) not in seen:
            seen.add((run_id, seed))
            run = plan.runs[run_id]
            left += [(parent, plan.parent_seed(parent, seed)) for parent in run.parents.values()]
            left += [(candidate, 0) for candidate in run.candidates]
    return sorted(seen)


def _run_id(scale: str, run_id: str, seed: int) -> str:
    return f"runs/{scale}/{run_id}-seed{seed}"


def _run(project: Project, plan: Plan, run: Run, seed: int) -> Artifact:
    task = run.spec.task.name
    methods = run.spec.method_names
    needs = ["manifest.json", run.stored]
    needs += ["metrics.json"] if run.evaluate else []
    needs += ["measures.json"] if run.measure and seed == 0 else []
    evaluated = [project.task(name) for name in run.evaluate]
    title = f"{run.stage} of {run.spec.root}" + (f" with {' + '.join(methods)}" if methods else "")
    return Artifact(
        id=_run_id(plan.scale, run.id, seed),
        kind="run",
        folder=str(HERE.run(plan.scale, run.id, seed)),
        type="signals" if run.stage == "targets" else "model",
        desc=f"{title} on {task}, seed {seed}, scale {plan.scale}",
        labels=(
            *(f"paper:{paper}" for paper in sorted(run.papers)),
            *(f"method:{name}" for name in methods),
            f"task:{task}",
            f"stage:{run.stage}",
            f"scale:{plan.scale}",
        ),
        papers=tuple(sorted(run.papers)),
        only=(MANIFEST, *MADE_FROM_RUN),
        needs=tuple(needs),
        models=_weights(plan, run),
        quoted=tuple(sorted({item.dataset for item in evaluated if kinds.of(item).quotes})),
    )


def _weights(plan: Plan, run: Run) -> tuple[str, ...]:
    """Return the registered model whose weights a run's own go back to."""
    if run.stage == "targets":
        return ()
    if "init" in run.parents:
        return _weights(plan, plan.runs[run.parents["init"]])
    model = run.spec.model
    return () if model.random else (model.name,)


def _dataset(project: Project, name: str) -> Artifact:
    return Artifact(
        id=f"datasets/{name}",
        kind="dataset",
        folder=str(HERE.dataset(name)),
        type="dataset",
        desc=project.dataset(name).title,
        labels=(f"licence:{project.dataset(name).licence}",),
        datasets=(name,),
    )


def _model(project: Project, name: str) -> Artifact:
    return Artifact(
        id=f"models/{name}",
        kind="model",
        folder=str(HERE.model(name)),
        type="model",
        desc=project.model(name).title,
        labels=(f"licence:{project.model(name).licence}",),
        models=(name,),
    )


def _prepared(plan: Plan, name: str) -> Artifact:
    facts = plan.prepared[name]
    return Artifact(
        id=f"prepared/{name}",
        kind="prepared",
        folder=str(HERE.prepared(name)),
        type="tokens",
        desc=f"{facts.task} in the tokens of {facts.tokenizer}, at most {facts.max_length} each",
        labels=(f"task:{facts.task}", f"dataset:{facts.dataset}"),
        datasets=(facts.dataset,),
    )


def _structural(paper: str) -> Artifact:
    return Artifact(
        id=f"structural/{paper}",
        kind="structural",
        folder=str(HERE.structural(paper).parent),
        type="results",
        desc=f"measurements of {paper}'s models at their published size",
        labels=(f"paper:{paper}",),
        papers=(paper,),
        only=(f"{paper}.json",),
        whole=(),
        needs=(f"{paper}.json",),
    )


def _paper(plan: Plan, paper: Paper) -> Artifact:
    tables = [f"tables/{name}" for name in (*table_files(paper), STAMP)]
    figures = [f"figures/{name}" for name in (*figure_files(paper), STAMP)]
    return Artifact(
        id=f"papers/{plan.scale}/{paper.id}",
        kind="paper",
        folder=str(HERE.paper(plan.scale, paper.id)),
        type="results",
        desc=f"claims, tables and figures of {paper.id}, scale {plan.scale}",
        labels=(f"paper:{paper.id}", f"scale:{plan.scale}"),
        papers=(paper.id,),
        only=("claims.json", *tables, *figures),
        needs=("claims.json", "tables", "figures"),
    )
