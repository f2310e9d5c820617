"""From papers to runs: resolved specifications, content-hashed ids, parents, seeds. Imports no torch.

A run's id is `<stage>-<model, methods, task>-<8 hex>`. The hash covers the resolved specification, the ids of the parents and the
versions of method, task and training loop: facts that change the run's numbers, and no others. Seeds stay outside.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from typing import Any

from replica.config.expand import MOST_IN_A_CHAIN, SECTIONS, expand_section, methods_at, model_at, task_at, train_at
from replica.config.project import Project
from replica.config.schema import Paper, RunEntry, Train
from replica.config.settings import Scale
from replica.config.task_schema import Task
from replica.config.validation import validate
from replica.errors import ConfigError, nearest
from replica.methods import registry
from replica.models.architectures import check_length, registered_positions
from replica.plan.defaults import specified
from replica.plan.plan import Plan, Prepared, Run
from replica.plan.references import check_owned_names
from replica.plan.requests import check_chosen, check_claims, requested_runs
from replica.plan.run_spec import ModelSpec, RunSpec, TaskSpec
from replica.tasks import kinds

#: Raised when a change of the training loop changes the numbers of runs.
TRAINING_VERSION = 1
#: Separates a run's name from the value that its candidate tries.
TRIED = "~"
_CHAIN = f"more than {MOST_IN_A_CHAIN} runs follow each other by `from`, `teacher` and `targets`"


class _Builder:
    """Expands the papers of one scale; each resolved specification becomes one run."""

    def __init__(self, project: Project, scale: Scale):
        self.project = project
        self.scale = scale
        self.plan = Plan(scale=scale.name)
        #: run id → how many runs follow each other up to it
        self.depths: dict[str, int] = {}

    def section(self, paper: Paper, section: str, entries: dict[str, RunEntry]) -> None:
        resolver = _Section(self, paper, section, entries)
        known = self.plan.named.setdefault(paper.id, {}).setdefault(section, {})
        for name in entries:  # every entry is checked, also one that no claim asks for
            known[name] = resolver.resolve(name)

    def ask(self, paper: Paper, section: str, requests: dict[str, int]) -> None:
        wanted = self.plan.wanted.setdefault(paper.id, [])
        for name, seeds in requests.items():
            run_id = self.plan.named[paper.id][section][name]
            if run_id not in wanted:
                wanted.append(run_id)
            self.request(run_id, range(seeds), paper.id)

    def request(self, run_id: str, seeds: range | list[int], paper: str) -> None:
        run = self.plan.runs[run_id]
        seeds = [0] if run.single else list(seeds)
        if paper in run.papers and run.seeds.issuperset(
            seeds
        ):  # so are its parents: they are asked for once, not once a path
            return
        run.seeds.update(seeds)
        run.papers.add(paper)
        for parent in run.parents.values():
            self.request(parent, seeds, paper)
        for candidate in run.candidates:
            self.request(candidate, [0], paper)

    def add(self, name: str, run: Run) -> str:
        known = self.plan.runs.get(run.id)
        if known is None:
            self.plan.runs[run.id] = run
        elif (known.spec, known.parents, known.candidates) != (run.spec, run.parents, run.candidates):
            raise ConfigError(
                f"two runs have the id {run.id} and differ ('{name}', {sorted(known.names)}): change one specification"
            )
        else:
            self._agree_on_seeds(name, known, run)
            known.evaluate.update(run.evaluate)
            known.measure = known.measure or run.measure
            known.gpus = max(known.gpus, run.gpus)
        self.plan.runs[run.id].names.add(name)
        return run.id

    def _agree_on_seeds(self, name: str, known: Run, run: Run) -> None:
        """Raise ConfigError where one entry of a run is `seeds: one` and another is not: a child's parent would be undefined."""
        if TRIED in name or known.single == run.single or self.scale.name == "smoke":  # smoke has one seed
            return
        others = sorted(other for other in known.names if TRIED not in other)
        if others:
            raise ConfigError(
                f"'{name}' and {others} are the same run {run.id}, and only one of them has `seeds: one`; give it to both"
            )
        known.single = run.single

    def prepare(self, task: Any, tokenizer: str, max_length: int | None) -> str:
        length = min(max_length or task.max_length, task.max_length)
        dataset = self.project.dataset(task.dataset)
        payload = {
            "task": {
                k: v for k, v in specified(task, "task").items() if k not in ("standins", "metrics", "max_length")
            },
            "dataset": [task.dataset, {k: v.sha256 if v else None for k, v in dataset.splits.items()}],
            "tokenizer": [tokenizer, self.project.model(tokenizer).files],
            "length": length,
        }
        prepared = Prepared(f"{task.name}-{tokenizer}-{_hash(payload)}", task.name, task.dataset, tokenizer, length)
        self.plan.prepared[prepared.id] = prepared
        return prepared.id


class _Section:
    """Resolves the runs of one section of one paper, parents first."""

    def __init__(self, builder: _Builder, paper: Paper, section: str, entries: dict[str, RunEntry]):
        self.builder, self.paper, self.section, self.entries = builder, paper, section, entries
        self.done: dict[str, str] = {}
        self.open: list[str] = []

    def resolve(self, name: str) -> str:
        if name in self.done:
            return self.done[name]
        where = f"{self.paper.file}: runs.{self.section}.{name}"
        if name in self.open:
            raise ConfigError(f"{where}: runs depend on each other in a circle: {' → '.join([*self.open, name])}")
        if len(self.open) >= MOST_IN_A_CHAIN:
            raise ConfigError(f"{where}: {_CHAIN}")
        self.open.append(name)
        try:
            entry = self.entries[name]
            candidates = self._candidates(name, entry, where)
            self.done[name] = self._run(name, entry, where, candidates)
        finally:
            self.open.pop()
        return self.done[name]

    def _candidates(self, name: str, entry: RunEntry, where: str) -> dict[str, dict[str, Any]]:
        """Add one run for each value of `tune`; returns their ids with the value of each."""
        if not entry.tune:
            return {}
        if len(entry.tune) != 1 or not all(entry.tune.values()):
            raise ConfigError(f"{where}: tune: give one key with the values to try, got {entry.tune}")
        [(key, values)] = entry.tune.items()
        task = self.builder.project.tasks.get(entry.task or "")
        if task is not None and not kinds.of(task).scored:
            raise ConfigError(f"{where}: tune: task '{entry.task}' is unlabelled and has no score to choose by")
        candidates = {}
        for value in values:
            tried = entry.model_copy(
                update={"train": {**entry.train, key: value}, "tune": {}, "measure": type(entry.measure)()}
            )
            if not self.builder.scale.tune:  # no run, but the value must be valid
                validate(Train, train_at(tried, self.builder.scale), f"{where}: tune")
                continue
            candidates[self._run(f"{name}{TRIED}{key}={value}", tried, where, {})] = {key: value}
        return candidates

    def _parent(self, name: str, role: str) -> str:
        if name not in self.entries:
            raise ConfigError(f"{role}: unknown run '{name}'{nearest(name, self.entries)}")
        return self.resolve(name)

    def _run(self, name: str, entry: RunEntry, where: str, candidates: dict[str, dict[str, Any]]) -> str:
        """Specify one run and add it to the plan; returns its id."""
        builder, scale = self.builder, self.builder.scale
        parents: dict[str, str] = {}
        models: list[str] = []
        try:
            if entry.task is None:
                raise ConfigError("a run needs a task")
            task = task_at(builder.project, entry.task, scale)
            model = self._start(entry, parents, models)
            teacher = self._teacher(entry, parents, models)
            methods = self._methods(entry, bool(teacher or {"teacher", "targets"} & parents.keys()))
            train = None if entry.stage == "targets" else self._train(entry)
            root, tokenizer = self._origin(model, teacher, parents)
            length = (train or {}).get("max_length") or (None if scale.train else entry.train.get("max_length"))

            def tokenized(task: Task) -> TaskSpec:
                return TaskSpec(task.name, task.version, builder.prepare(task, tokenizer, length))

            spec = RunSpec(
                stage=entry.stage,
                root=root,
                task=tokenized(task),
                tokenizer=tokenizer,
                training=TRAINING_VERSION,
                methods=methods,
                train=train,
                model=model,
                teacher=teacher,
                beside=self._beside(entry, task, tokenized),
                together=self._together(entry, task, tokenized),
                tune=candidates,
            )
            self._check_targets(entry, spec, parents)
            evaluate = {task.name: tokenized(task).data for task in self._scored(entry, task, TRIED in name)}
            self._check_lengths(spec, parents, evaluate)
        except ConfigError as error:
            message = str(error)
            raise ConfigError(message if message.startswith("config/") else f"{where}: {message}") from None
        run = Run(
            id=f"{spec.stage}-{_slug(spec)}-{_hash([spec.content(), parents])}",
            spec=spec,
            parents=parents,
            candidates=list(candidates),
            single=entry.seeds == "one",
            models=models,
            evaluate=evaluate,
            measure=entry.measure.model_dump() if entry.measure.latency else None,
            gpus=entry.gpus if scale.name == "paper" else 0,
        )
        builder.depths[run.id] = 1 + max((builder.depths[parent] for parent in parents.values()), default=0)
        if builder.depths[run.id] > MOST_IN_A_CHAIN:
            raise ConfigError(f"{where}: {_CHAIN}")
        return builder.add(name, run)

    def _start(self, entry: RunEntry, parents: dict[str, str], models: list[str]) -> ModelSpec | None:
        """Return the registered model that the run starts from; None where it starts from a parent, or stores a teacher's signals."""
        if (entry.model is None) == (entry.init is None) and entry.stage != "targets":
            raise ConfigError("give exactly one of `model` and `from`")
        if entry.model is not None:
            return self._model(entry.model, entry.random_init, models)
        if entry.init is not None:
            if entry.random_init:
                raise ConfigError("`random_init` goes with `model`; a run with `from` starts from that run's weights")
            parents["init"] = self._parent(entry.init, "from")
        return None

    def _model(self, name: str, random_init: bool, models: list[str]) -> ModelSpec:
        """Describe a registered model so that a change of its size or weights changes the hash."""
        project = self.builder.project
        name = model_at(project, name, self.builder.scale)
        entry = project.model(name)
        source = name if entry.sources is not None else entry.weights_of
        pretrained = source is not None and not random_init
        if pretrained:
            models.append(source)
        weights = _hash(project.model(source).files) if pretrained else "random"
        return ModelSpec(name, _hash([entry.architecture, entry.config]), weights)

    def _teacher(self, entry: RunEntry, parents: dict[str, str], models: list[str]) -> ModelSpec | None:
        """Return the teacher that is a registered model; a teacher that is a run, and a run with stored signals, become parents."""
        teacher = None
        if entry.teacher in self.entries:
            parents["teacher"] = self._parent(entry.teacher, "teacher")
        elif entry.teacher in self.builder.project.models:
            teacher = self._model(entry.teacher, False, models)
        elif entry.teacher is not None:
            known = [*self.entries, *self.builder.project.models]
            raise ConfigError(f"teacher: no run or model is named '{entry.teacher}'{nearest(entry.teacher, known)}")
        if entry.targets is not None:
            parents["targets"] = self._parent(entry.targets, "targets")
            if self.builder.plan.runs[parents["targets"]].stage != "targets":
                raise ConfigError(f"targets: '{entry.targets}' is not a run of stage `targets`")
        if entry.stage == "targets" and entry.teacher is None:
            raise ConfigError("a run of stage `targets` needs a teacher")
        return teacher

    def _methods(self, entry: RunEntry, taught: bool) -> list[dict[str, Any]]:
        """Return name, version and options of the run's methods; `taught`: the run has a teacher or its stored signals."""
        methods = []
        for method, config in registry.parse_all(methods_at(entry, self.builder.scale)):
            if method.needs_teacher and not taught:
                raise ConfigError(f"methods: '{method.name}' needs `teacher:` or `targets:`")
            options = specified(config, method.name)
            methods.append({"name": method.name, "version": method.version, **options})
        return methods

    def _train(self, entry: RunEntry) -> dict[str, Any]:
        """Return the training settings that enter the specification."""
        scale = self.builder.scale
        train = specified(validate(Train, train_at(entry, scale), "train"), "train")
        if entry.tune and not scale.tune:  # no values are tried: the first is taken
            [(key, values)] = entry.tune.items()
            if key not in scale.train and not (key == "epochs" and "steps" in train):
                train[key] = values[0]
        return train

    def _origin(self, model: ModelSpec | None, teacher: ModelSpec | None, parents: dict[str, str]) -> tuple[str, str]:
        """Return the registered model at the start of the chain of parents, and the model whose tokenizer the run uses."""
        parent = parents.get("init") or parents.get("teacher")
        if model is None and parent is not None:
            spec = self.builder.plan.runs[parent].spec
            return spec.root, spec.tokenizer
        name = (model or teacher).name
        return name, self.builder.project.tokenizer_of(name)

    def _beside(self, entry: RunEntry, task: Task, tokenized: Callable[[Task], TaskSpec]) -> TaskSpec | None:
        if entry.beside is None:
            return None
        other = task_at(self.builder.project, entry.beside, self.builder.scale)
        if _head(other) != _head(task):
            raise ConfigError(
                f"beside: task '{entry.beside}' needs another head than '{entry.task}', which this run trains"
            )
        return tokenized(other)

    def _together(self, entry: RunEntry, task: Task, tokenized: Callable[[Task], TaskSpec]) -> tuple[TaskSpec, ...]:
        """Return the tasks that a run trains after its first; raises ConfigError where one model cannot score them all alike."""
        if entry.together and (entry.stage == "targets" or entry.targets or entry.beside):
            raise ConfigError("together: goes with neither stage `targets` nor `targets:` nor `beside:`")
        others: list[TaskSpec] = []
        for name in entry.together:
            other = task_at(self.builder.project, name, self.builder.scale)
            if _head(other) != _head(task):
                raise ConfigError(f"together: task '{name}' needs another head than '{entry.task}'")
            if other.name in (task.name, *(item.name for item in others)):
                raise ConfigError(f"together: task '{other.name}' is listed twice")
            if entry.tune and {other.primary.direction, task.primary.direction} != {"higher"}:
                raise ConfigError(
                    f"together: tried values are chosen by the mean score, and of '{name}' or '{entry.task}' lower is better"
                )
            others.append(tokenized(other))
        return tuple(others)

    def _check_lengths(self, spec: RunSpec, parents: dict[str, str], evaluate: dict[str, str]) -> None:
        """Raise ConfigError where tokenized data is longer than the positions of the run's model or of one that it learns from."""
        builder, project = self.builder, self.builder.project
        roots = {spec.root, *(builder.plan.runs[parent].spec.root for parent in parents.values())}
        models = [project.model(name) for name in (*roots, *([spec.teacher.name] if spec.teacher else []))]
        data = [task.data for task in (*spec.tasks, *([spec.beside] if spec.beside else []))]
        for prepared in (builder.plan.prepared[name] for name in (*data, *evaluate.values())):
            kind = kinds.of(project.task(prepared.task))
            for model in models if kind.tokenized else ():
                try:
                    check_length(
                        registered_positions(model.architecture, model.config), kind.row_length(prepared.max_length)
                    )
                except ConfigError as error:
                    raise ConfigError(f"task '{prepared.task}': {error}; give the run `train: max_length`") from None

    def _check_targets(self, entry: RunEntry, spec: RunSpec, parents: dict[str, str]) -> None:
        """Raise ConfigError where stored signals are of other tokenized data than the run trains on."""
        if "targets" in parents and (data := self.builder.plan.runs[parents["targets"]].data) != spec.task.data:
            raise ConfigError(
                f"targets: '{entry.targets}' was made from {data}, but this run reads {spec.task.data}: "
                "give both the same task and the same `train: max_length`"
            )

    def _scored(self, entry: RunEntry, task: Task, candidate: bool) -> list[Task]:
        """Return the tasks that the run is scored on: those of `evaluate`, else its own where they are labelled."""
        own = [entry.task, *entry.together]
        names = entry.evaluate
        if names is None:
            names = [] if candidate or not kinds.of(task).scored or entry.stage == "targets" else own
        tasks = []
        for name in names:
            scored = task_at(self.builder.project, name, self.builder.scale)
            if entry.together and name not in own:
                raise ConfigError(f"evaluate: task '{name}' is none of those that this run trains{nearest(name, own)}")
            if _head(scored) != _head(task):
                raise ConfigError(
                    f"evaluate: task '{name}' needs another head than '{entry.task}', which this run trains: "
                    "it would be scored with random weights"
                )
            if entry.tune and scored.splits.report in (None, scored.splits.select):
                raise ConfigError(
                    f"evaluate: task '{scored.name}' reports on the split that chooses among the tried values; "
                    "give it a `report` split of its own, or the run `evaluate: []`"
                )
            tasks.append(scored)
        return tasks


def _head(task: Task) -> tuple[Any, ...]:
    """Return a key of the task's head: one model can be scored on all tasks with the same key."""
    return kinds.of(task).scored_with(task)


def _slug(spec: RunSpec) -> str:
    """Name a run by model, methods and task: from the specification alone, so that papers share it."""
    words = [spec.root, *spec.method_names, spec.task.name]
    return re.sub(r"[^a-z0-9]+", "-", "-".join(words).lower()).strip("-")[:72].strip("-")


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:8]


def build_plan(project: Project, scale: str | None = None, papers: list[str] | None = None) -> Plan:
    """Expand the enabled papers (or `papers`) at a scale into runs with parents, data and seeds.

    Raises ConfigError for a mistake in a paper's file, naming file and key.
    """
    chosen = project.scale(scale or project.settings.scale)
    builder = _Builder(project, chosen)
    check_chosen(project)
    check_owned_names(project)
    for name in papers or project.papers:
        paper = project.paper(name)
        entries = {section: expand_section(paper, section) for section in SECTIONS}
        for section in chosen.sections:
            builder.section(paper, section, entries[section])
        check_claims(project, paper, entries)
        for section in chosen.sections:
            builder.ask(paper, section, requested_runs(project, paper, section, entries[section], chosen))
    return builder.plan
