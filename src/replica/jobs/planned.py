"""The jobs that a plan's results take, each with the file that says that it is done, and what it waits for."""

from __future__ import annotations

from dataclasses import dataclass

from replica.config import Project
from replica.plan import Plan
from replica.plan.outputs import evaluated_runs, measured_runs
from replica.plan.resources import START_SECONDS, evaluation_of, resources_of


@dataclass(frozen=True)
class Job:
    """One job of the DAG: its rule, its name in `logs/` and `benchmarks/`, what it makes and waits for, and the plan's estimate."""

    rule: str
    name: str
    output: str
    before: tuple[str, ...] = ()
    #: seconds that the plan expects
    seconds: float = START_SECONDS
    #: run and seed of a job that trains or stores signals
    run: tuple[str, int] | None = None

    @property
    def log(self) -> str:
        """Path of the job's log below the root."""
        return f"logs/{self.rule}/{self.name}.log"

    @property
    def benchmark(self) -> str:
        """Path of the job's measured time below the root."""
        return f"benchmarks/{self.rule}/{self.name}.tsv"


def jobs(project: Project, plan: Plan) -> list[Job]:
    """Return the jobs of a plan that compute; retrieving, comparing, tables and report are left out, which take seconds each."""
    found = [Job("measure_structure", name, f"results/structural/{name}.json") for name in plan.named]
    found += [Job("prepare", name, _data(name)) for name in plan.prepared]
    for run in plan.runs.values():
        rule = "train" if run.stage in ("pretrain", "teacher") else run.stage
        seconds = resources_of(project, plan, run.id)["seconds"] if run.seeds else 0.0
        for seed in sorted(run.seeds):
            before = [_file(plan, parent, plan.parent_seed(parent, seed)) for parent in run.parents.values()]
            chosen = run.candidates if seed == 0 else []  # at the first seed the best candidate is the run
            before += [_file(plan, name, 0) for name in run.candidates]
            data = [_data(run.data)] if run.data else []
            name = f"{plan.scale}/{run.id}-seed{seed}"
            made = _file(plan, run.id, seed)
            found.append(Job(rule, name, made, (*before, *data), 0.0 if chosen else seconds, (run.id, seed)))
    for run_id, seed in evaluated_runs(plan):
        data = tuple(_data(name) for name in plan.runs[run_id].evaluate.values())
        before = (_file(plan, run_id, seed), *data)
        seconds = evaluation_of(project, plan, run_id)["seconds"]
        made = _file(plan, run_id, seed, "metrics.json")
        found.append(Job("evaluate", f"{plan.scale}/{run_id}-seed{seed}", made, before, seconds))
    for run_id, seed in sorted({item for paper in plan.wanted for item in measured_runs(plan, paper)}):
        made = _file(plan, run_id, seed, "measures.json")
        found.append(Job("measure", f"{plan.scale}/{run_id}-seed{seed}", made, (_file(plan, run_id, seed),)))
    return found


def _file(plan: Plan, run_id: str, seed: int, name: str = "manifest.json") -> str:
    return f"results/{plan.scale}/runs/{run_id}/seed{seed}/{name}"


def _data(name: str) -> str:
    return f"assets/prepared/{name}/manifest.json"
