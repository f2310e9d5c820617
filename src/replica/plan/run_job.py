"""One seed of one run with everything that its job reads of plan and configuration; and plans stored for jobs. Imports no torch.

Snakemake plans once and stores the plan (`store_plan`); each job reads its own part (`read_job`). A program that a person starts has no
stored plan and plans by itself (`job_of`). The file's name is the hash of its content, so processes that plan
the same configuration, also on another node, name the same file, and a changed plan never replaces one that jobs still read.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from replica.config.asset_schema import ModelEntry
from replica.config.project import Project
from replica.config.schema import Train
from replica.config.task_schema import Task
from replica.files import atomic_path, parse_json
from replica.paths import Layout
from replica.plan.plan import Plan, Run
from replica.plan.resources import training_resources
from replica.plan.run_spec import RunSpec

#: Stored plans that are kept at a scale.
KEPT = 5


@dataclass(frozen=True)
class RunJob:
    """One seed of one run: its specification, its relatives, and the tasks and models that they name."""

    scale: str
    run: Run
    seed: int
    layout: Layout
    #: parents and candidates by id
    relatives: dict[str, Run]
    tasks: dict[str, Task]
    models: dict[str, ModelEntry]
    #: GPUs over all processes
    gpus: int
    #: the run tries a value for another, which reads its score
    is_candidate: bool
    confidence_level: float

    @property
    def folder(self) -> Path:
        """Folder of the results."""
        return self.layout.run(self.scale, self.run.id, self.seed)

    @property
    def state(self) -> Path:
        """Folder of the resume checkpoints."""
        return self.layout.resume(self.scale, self.run.id, self.seed)

    @cached_property
    def trained_tasks(self) -> list[Task]:
        """The tasks that the run trains, the first first."""
        return [self.tasks[name] for name in self.run.tasks]

    @property
    def trained_folders(self) -> list[Path]:
        """Folders of the tokenized data of the trained tasks."""
        return [self.layout.prepared(name) for name in self.run.trained_data]

    def train_settings(self, **changes: Any) -> Train:
        """Return the training settings, with the chosen value of a tuned run over them."""
        return Train(**{**(self.run.spec.train or {}), **changes})

    def parent_seed(self, role: str) -> int:
        """Return the seed of the parent of a role: the same, or 0 where the parent is single."""
        return 0 if self.relatives[self.run.parents[role]].single else self.seed

    def parent_folder(self, role: str) -> Path:
        """Return the folder of the parent of a role."""
        return self.layout.run(self.scale, self.run.parents[role], self.parent_seed(role))

    def candidate_folder(self, candidate: str) -> Path:
        """Return the folder of a candidate, which is trained with seed 0."""
        return self.layout.run(self.scale, candidate, 0)


def job_of(project: Project, plan: Plan, run_id: str, seed: int, layout: Layout | None = None) -> RunJob:
    """Return one seed of a run of the plan; raises ConfigError for an unknown run."""
    run = plan.run(run_id)
    return RunJob(
        scale=plan.scale,
        run=run,
        seed=seed,
        layout=layout or Layout(project.root),
        relatives={name: plan.runs[name] for name in (*run.parents.values(), *run.candidates)},
        tasks={name: project.task(name) for name in _task_names(run)},
        models={name: project.model(name) for name in _model_names(run, project.models)},
        gpus=training_resources(project, plan, run_id).gpu,
        is_candidate=any(run_id in other.candidates for other in plan.runs.values()),
        confidence_level=project.settings.confidence_level,
    )


def stored_plan(project: Project, plan: Plan) -> tuple[Path, str]:
    """Return the file below the root that stores a plan for its jobs, and its text: JSON, one run a line."""
    tasks = sorted({name for run in plan.runs.values() for name in _task_names(run)})
    models = sorted({name for run in plan.runs.values() for name in _model_names(run, project.models)})
    candidates = {name for run in plan.runs.values() for name in run.candidates}
    facts = {
        "confidence_level": project.settings.confidence_level,
        "tasks": {name: project.task(name).model_dump(mode="json", exclude_unset=True) for name in tasks},
        "models": {name: project.model(name).model_dump(mode="json", exclude_unset=True) for name in models},
    }
    lines = [json.dumps(facts)]
    for run in plan.runs.values():
        gpus, is_candidate = training_resources(project, plan, run.id).gpu, run.id in candidates
        lines.append(json.dumps({"id": run.id, **_content(run), "job": {"gpus": gpus, "is_candidate": is_candidate}}))
    text = "\n".join([*lines, ""])
    return Layout(project.root).plans(plan.scale) / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.jsonl", text


def store_plan(path: Path, text: str) -> None:
    """Write a stored plan in one step and remove the oldest, so that `KEPT` remain."""
    if path.exists():
        path.touch()
    else:
        with atomic_path(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    for old in sorted(path.parent.glob("*.jsonl"), key=lambda item: item.stat().st_mtime)[:-KEPT]:
        old.unlink(missing_ok=True)


def read_job(path: Path, scale: str, run_id: str, seed: int, layout: Layout) -> RunJob | None:
    """Return one seed of a run of a stored plan; None where the file is not there or has no such run."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        return None

    def line(name: str) -> dict[str, Any] | None:
        start = text.find(f'\n{{"id": "{name}", ') + 1
        return parse_json(text[start:].partition("\n")[0], path) if start else None

    content = line(run_id)
    if content is None:
        return None
    facts = parse_json(text.partition("\n")[0], path)
    run = _run(content)
    related = (*run.parents.values(), *run.candidates)
    return RunJob(
        scale=scale,
        run=run,
        seed=seed,
        layout=layout,
        relatives={name: _run(line(name)) for name in related},
        tasks={name: Task(**facts["tasks"][name]) for name in _task_names(run)},
        models={name: ModelEntry(**facts["models"][name]) for name in _model_names(run, facts["models"])},
        confidence_level=facts["confidence_level"],
        **content["job"],
    )


#: Fields of a run that its job reads.
_FIELDS = ("parents", "candidates", "single", "models", "evaluate", "measure")


def _content(run: Run) -> dict[str, Any]:
    return {"spec": run.spec.content(), **{name: getattr(run, name) for name in _FIELDS}}


def _run(content: dict[str, Any]) -> Run:
    return Run(content["id"], RunSpec.read(content["spec"]), **{name: content[name] for name in _FIELDS})


def _task_names(run: Run) -> list[str]:
    """Return the names of all tasks that the run trains, draws from or is scored on."""
    beside = [run.spec.beside.name] if run.spec.beside else []
    return sorted({*run.tasks, *beside, *run.evaluate})


def _model_names(run: Run, models: dict[str, Any]) -> list[str]:
    """Return the names of the registered models that the run starts from or learns from, and of those that give them weights."""
    names = {model.name for model in (run.spec.model, run.spec.teacher) if model}
    return sorted(names | {name for name in run.models if name in models})
