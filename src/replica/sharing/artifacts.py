"""The artifacts of a plan: data sets, models, tokenized data, runs and results, each published as one archive."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from replica.config.project import Project
from replica.plan import Plan, Run
from replica.plan.outputs import HERE
from replica.tasks import kinds

#: Snakemake's mark of a folder it made; other names that begin with a dot are leftovers.
STAMP = ".snakemake_timestamp"
#: Files of a scale's ledger and report, below the folder that holds them.
LEDGER_FILES = ("claims.csv", "claims.json", "summary.json", "papers.bib", "report/index.html")
#: The pages that the report's front page leads to.
PAGES = "report/site/"
#: An evaluation's predictions, example by example.
PREDICTIONS = "predictions.parquet"


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
    #: files of the folder that belong to it, and folders (they end with a slash) of which all files do; all when empty
    only: tuple[str, ...] = ()
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
        """Return the names of its files that are there, below its folder, in order."""
        folder = root / self.folder
        if self.only:
            named = {name for name in self.only if (folder / name).is_file()}
            below = [path for name in self.only if name.endswith("/") for path in (folder / name).rglob("*")]
            return sorted(named | {path.relative_to(folder).as_posix() for path in below if path.is_file()})
        names = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
        return sorted(
            path.as_posix()
            for path in names
            if path.name == STAMP or not any(part.startswith(".") for part in path.parts)
        )

    def missing(self, root: Path) -> list[str]:
        """Return the needed files that are missing."""
        return [name for name in self.needs if not (root / self.folder / name).exists()]


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
        _add(artifacts, _structural(paper), _paper(plan, paper))
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
        only=(*LEDGER_FILES, PAGES),
        needs=(*LEDGER_FILES, PAGES),
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
        needs=(f"{paper}.json",),
    )


def _paper(plan: Plan, paper: str) -> Artifact:
    return Artifact(
        id=f"papers/{plan.scale}/{paper}",
        kind="paper",
        folder=str(HERE.paper(plan.scale, paper)),
        type="results",
        desc=f"claims, tables and figures of {paper}, scale {plan.scale}",
        labels=(f"paper:{paper}", f"scale:{plan.scale}"),
        papers=(paper,),
        needs=("claims.json", "tables", "figures"),
    )
