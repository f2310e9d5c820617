"""The jobs of a plan: one list that progress, `replica run` and profiles read. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from replica.config.project import Project
from replica.paths import MEASURES, METRICS, job_name
from replica.plan import outputs
from replica.plan.plan import Plan, Resources
from replica.plan.resources import (
    evaluation_resources,
    measurement_resources,
    preparation_resources,
    structural_resources,
    training_resources,
)


@dataclass(frozen=True)
class Job:
    """One job of the DAG: a rule, and the run, paper or tokenized data (`subject`) that it is applied to."""

    rule: str
    subject: str
    #: name in `logs/` and `benchmarks/`
    name: str
    output: str
    inputs: tuple[str, ...]
    resources: Resources
    #: run and seed of a job that trains or stores signals
    run: tuple[str, int] | None = None
    #: the result is the best candidate's, which only has to be copied
    adopts: bool = False

    @property
    def seconds(self) -> float:
        """The expected time."""
        return 0.0 if self.adopts else self.resources.seconds


def planned_jobs(project: Project, plan: Plan) -> list[Job]:
    """Return the jobs of a plan that compute; retrieving, comparing, tables and report, which take seconds each, are left out."""
    structural, preparation = structural_resources(), preparation_resources(project.scale(plan.scale))
    jobs = [
        Job("measure_structure", paper, paper, str(outputs.HERE.structural(paper)), (), structural)
        for paper in plan.named
    ]
    for name in plan.prepared:
        [output] = outputs.prepared_files([name])
        jobs.append(Job("prepare", name, name, output, _flat(outputs.prepare_inputs(plan, name)), preparation))
    for run in plan.runs.values():
        for seed in sorted(run.seeds):
            inputs = _flat(outputs.run_inputs(plan, run.id, seed))
            output, resources = outputs.run_file(plan, run.id, seed), training_resources(project, plan, run.id)
            adopts = bool(run.candidates) and seed == 0
            name = job_name(plan.scale, run.id, seed)
            jobs.append(Job(run.rule, run.id, name, output, inputs, resources, (run.id, seed), adopts))
    for run_id, seed in outputs.evaluated_runs(plan):
        inputs = _flat(outputs.evaluation_inputs(plan, run_id, seed))
        output, resources = outputs.run_file(plan, run_id, seed, METRICS), evaluation_resources(project, plan, run_id)
        jobs.append(Job("evaluate", run_id, job_name(plan.scale, run_id, seed), output, inputs, resources))
    for run_id, seed in outputs.measured_runs(plan):
        inputs = (outputs.run_file(plan, run_id, seed),)
        output, resources = outputs.run_file(plan, run_id, seed, MEASURES), measurement_resources(project, plan, run_id)
        jobs.append(Job("measure", run_id, job_name(plan.scale, run_id, seed), output, inputs, resources))
    return jobs


def _flat(inputs: dict[str, str | list[str]]) -> tuple[str, ...]:
    files: Iterable[str | list[str]] = inputs.values()
    return tuple(file for item in files for file in ([item] if isinstance(item, str) else item))
