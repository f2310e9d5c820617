"""From papers to runs: resolved specifications, content-hashed ids, parents, seeds. Imports no torch.

A run's id is `<stage>-<model, methods, task>-<8 hex>`. The hash covers the resolved specification, the ids of the parents and the
versions of method, task and training loop: nothing that does not change what the run computes. Seeds stay outside.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from replica.config.expand import SECTIONS, expand_section, methods_at, model_at, task_at, train_at
from replica.config.project import Project
from replica.config.schema import Paper, RunEntry, Train
from replica.config.settings import Scale
from replica.config.task_schema import Task
from replica.config.validation import validate
from replica.errors import ConfigError, nearest
from replica.methods import registry
from replica.plan.plan import Plan, Prepared, Run
from replica.plan.requests import check_chosen, check_claims, requested_runs
from replica.tasks import kinds

#: Raised when a change of the training loop changes what a run computes.
TRAINING_VERSION = 1
#: Stands in the names of the runs that try a value, between the run's name and the value.
TRIED = "~"


class _Builder:
    """Expands the papers of one scale; each resolved specification becomes one run."""

    def __init__(self, project: Project, scale: Scale):
        self.project = project
        self.scale = scale
        self.plan = Plan(scale=scale.name)
        self.content: dict[str, str] = {}

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
        run.seeds.update(seeds)
        run.papers.add(paper)
        for parent in run.parents.values():
            self.request(parent, seeds, paper)
        for candidate in run.candidates:
            self.request(candidate, [0], paper)

    def add(self, name: str, run: Run) -> str:
        content = json.dumps([run.spec, run.parents, run.candidates], sort_keys=True, default=str)
        known = self.plan.runs.get(run.id)
        if known is None:
            self.plan.runs[run.id] = run
            self.content[run.id] = content
        elif self.content[run.id] != content:
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
        """Refuse a run that is `seeds: one` here and not there: which parent a child's seed builds on would be anybody's guess."""
        if TRIED in name or known.single == run.single or self.scale.name == "smoke":  # smoke has one seed
            return
        others = sorted(other for other in known.names if TRIED not in other)
        if others:
            raise ConfigError(
                f"'{name}' and {others} are the same run {run.id}, and only one of them says `seeds: one`; say it in both"
            )
        known.single = run.single

    def prepare(self, task: Any, tokenizer: str, max_length: int | None) -> str:
        length = min(max_length or task.max_length, task.max_length)
        dataset = self.project.dataset(task.dataset)
        payload = {
            "task": task.model_dump(exclude={"standins", "metrics", "max_length"}, exclude_defaults=True, mode="json"),
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
        self.open.append(name)
        try:
            entry = self.entries[name]
            candidates = self._candidates(name, entry, where)
            self.done[name] = self._run(name, entry, where, candidates)
        finally:
            self.open.pop()
        return self.done[name]

    def _candidates(self, name: str, entry: RunEntry, where: str) -> dict[str, dict[str, Any]]:
        """Make one run per tried value; returns their ids with what each tries."""
        if not entry.tune:
            return {}
        if len(entry.tune) != 1 or not all(entry.tune.values()):
            raise ConfigError(f"{where}: tune: give one key with the values to try, got {entry.tune}")
        [(key, values)] = entry.tune.items()
        task = self.builder.project.tasks.get(entry.task or "")
        if task is not None and not kinds.of(task).scored:
            raise ConfigError(f"{where}: tune: task '{entry.task}' is unlabelled and has no score to choose by")
        found = {}
        for value in values:
            tried = entry.model_copy(
                update={"train": {**entry.train, key: value}, "tune": {}, "measure": type(entry.measure)()}
            )
            if not self.builder.scale.tune:  # no run, but the value must be one that training takes
                validate(Train, train_at(tried, self.builder.scale), f"{where}: tune")
                continue
            found[self._run(f"{name}{TRIED}{key}={value}", tried, where, {})] = {key: value}
        return found

    def _parent(self, name: str | None, role: str, where: str) -> str | None:
        if name is None:
            return None
        if name not in self.entries:
            raise ConfigError(f"{where}: {role}: unknown run '{name}'{nearest(name, self.entries)}")
        return self.resolve(name)

    def _run(self, name: str, entry: RunEntry, where: str, candidates: dict[str, dict[str, Any]]) -> str:
        builder, project, scale = self.builder, self.builder.project, self.builder.scale
        try:
            if entry.task is None:
                raise ConfigError("a run needs a task")
            task = task_at(project, entry.task, scale)
            spec: dict[str, Any] = {
                "stage": entry.stage,
                "task": [task.name, task.version],
                "training": TRAINING_VERSION,
            }
            parents: dict[str, str] = {}
            models: list[str] = []
            if (entry.model is None) == (entry.init is None) and entry.stage != "targets":
                raise ConfigError("give exactly one of `model` and `from`")
            if entry.model is not None:
                spec["model"] = self._model(entry.model, entry.random_init, models)
            elif entry.init is not None:
                if entry.random_init:
                    raise ConfigError(
                        "`random_init` goes with `model`; a run with `from` starts from that run's weights"
                    )
                parents["init"] = self._parent(entry.init, "from", where)
            self._teacher(entry, spec, parents, models, where)
            spec["methods"] = self._methods(entry, parents, spec)
            if entry.stage != "targets":
                train = validate(Train, train_at(entry, scale), "train")
                spec["train"] = train.model_dump(exclude_defaults=True, mode="json")
                if entry.tune and not scale.tune:  # the first value stands for all
                    [(key, values)] = entry.tune.items()
                    if key not in scale.train and not (key == "epochs" and "steps" in spec["train"]):
                        spec["train"][key] = values[0]
            tokenizer = self._tokenizer(spec, parents)
            length = spec.get("train", {}).get("max_length") or (
                entry.train.get("max_length") if not scale.train else None
            )
            spec["data"] = builder.prepare(task, tokenizer, length)
            spec["tokenizer"] = tokenizer
            if entry.beside is not None:
                other = task_at(project, entry.beside, scale)
                if _head(other) != _head(task):
                    raise ConfigError(
                        f"beside: task '{entry.beside}' needs another head than '{entry.task}', which this run trains"
                    )
                spec["beside"] = {
                    "task": [other.name, other.version],
                    "data": builder.prepare(other, tokenizer, length),
                }
            if entry.together:
                spec["together"] = self._together(entry, task, tokenizer, length)
            targets = builder.plan.runs[parents["targets"]] if "targets" in parents else None
            if targets is not None and targets.data != spec["data"]:
                raise ConfigError(
                    f"targets: '{entry.targets}' was made from {targets.data}, but this run reads {spec['data']}: "
                    "give both the same task and the same `train: max_length`"
                )
            if candidates:
                spec["tune"] = dict(candidates)
            evaluated = {}
            scored = kinds.of(task).scored and entry.stage != "targets" and TRIED not in name
            own = [entry.task, *entry.together]
            for other in entry.evaluate if entry.evaluate is not None else own * scored:
                target = task_at(project, other, scale)
                if entry.together and other not in own:
                    raise ConfigError(
                        f"evaluate: task '{other}' is none of those that this run trains{nearest(other, own)}"
                    )
                if _head(target) != _head(task):
                    raise ConfigError(
                        f"evaluate: task '{other}' needs another head than '{entry.task}', which this run trains: "
                        "it would be scored with random weights"
                    )
                if entry.tune and target.splits.report in (None, target.splits.select):
                    raise ConfigError(
                        f"evaluate: task '{target.name}' reports on the split that chooses among the tried values; "
                        "give it a `report` split of its own, or the run `evaluate: []`"
                    )
                evaluated[target.name] = builder.prepare(target, tokenizer, length)
        except ConfigError as error:
            message = str(error)
            raise ConfigError(message if message.startswith("config/") else f"{where}: {message}") from None
        spec = {key: value for key, value in spec.items() if value is not None}
        spec["root"] = self._root(spec, parents)
        run_id = f"{entry.stage}-{_slug(spec)}-{_hash([spec, parents])}"
        run = Run(
            id=run_id,
            stage=entry.stage,
            spec=spec,
            parents=parents,
            candidates=list(candidates),
            single=entry.seeds == "one",
            data=spec["data"],
            models=models,
            evaluate=evaluated,
            measure=entry.measure.model_dump() if entry.measure.latency else None,
            gpus=entry.gpus if scale.name == "paper" else 0,
        )
        return builder.add(name, run)

    def _together(self, entry: RunEntry, task: Task, tokenizer: str, length: int | None) -> list[dict[str, Any]]:
        """Describe the tasks that a run trains besides its first; raises ConfigError where one model cannot score them all alike."""
        if entry.stage == "targets" or entry.targets or entry.beside:
            raise ConfigError("together: goes with neither stage `targets` nor `targets:` nor `beside:`")
        found, names = [], [task.name]
        for name in entry.together:
            other = task_at(self.builder.project, name, self.builder.scale)
            if _head(other) != _head(task):
                raise ConfigError(f"together: task '{name}' needs another head than '{entry.task}'")
            if other.name in names:
                raise ConfigError(f"together: task '{other.name}' stands twice")
            if entry.tune and {other.primary.direction, task.primary.direction} != {"higher"}:
                raise ConfigError(
                    f"together: tried values are chosen by the mean score, and of '{name}' or '{entry.task}' lower is better"
                )
            names.append(other.name)
            data = self.builder.prepare(other, tokenizer, length)
            found.append({"task": [other.name, other.version], "data": data})
        return found

    def _model(self, name: str, random_init: bool, models: list[str]) -> dict[str, Any]:
        """Describe a registered model so that a change of its size or weights changes the hash."""
        project = self.builder.project
        name = model_at(project, name, self.builder.scale)
        entry = project.model(name)
        source = name if entry.sources is not None else entry.weights_of
        pretrained = source is not None and not random_init
        if pretrained:
            models.append(source)
        return {
            "name": name,
            "config": _hash([entry.architecture, entry.config]),
            "weights": _hash(project.model(source).files) if pretrained else "random",
        }

    def _root(self, spec: dict, parents: dict) -> str:
        """Return the registered model at the start of the chain."""
        if "model" in spec:
            return spec["model"]["name"]
        for role in ("init", "teacher"):
            if role in parents:
                return self.builder.plan.runs[parents[role]].spec["root"]
        return spec["teacher"]["name"]

    def _teacher(self, entry: RunEntry, spec: dict, parents: dict, models: list[str], where: str) -> None:
        if entry.teacher is not None:
            if entry.teacher in self.entries:
                parents["teacher"] = self._parent(entry.teacher, "teacher", where)
            elif entry.teacher in self.builder.project.models:
                spec["teacher"] = self._model(entry.teacher, False, models)
            else:
                known = [*self.entries, *self.builder.project.models]
                raise ConfigError(f"teacher: no run or model is named '{entry.teacher}'{nearest(entry.teacher, known)}")
        if entry.targets is not None:
            parents["targets"] = self._parent(entry.targets, "targets", where)
            if self.builder.plan.runs[parents["targets"]].stage != "targets":
                raise ConfigError(f"targets: '{entry.targets}' is not a run of stage `targets`")
        if entry.stage == "targets" and entry.teacher is None:
            raise ConfigError("a run of stage `targets` needs a teacher")

    def _methods(self, entry: RunEntry, parents: dict, spec: dict) -> list[dict[str, Any]]:
        found, changed = [], {}
        for reference in methods_at(entry, self.builder.scale):
            known, config = registry.parse(reference)
            for aspect in known.changes & {"loss", "optimizer", "schedule"}:
                if aspect in changed:
                    raise ConfigError(f"methods: '{changed[aspect]}' and '{known.name}' both change the {aspect}")
                changed[aspect] = known.name
            if known.needs_teacher and not ({"teacher", "targets"} & {*parents, *spec}):
                raise ConfigError(f"methods: '{known.name}' needs `teacher:` or `targets:`")
            found.append(
                {"name": known.name, "version": known.version, **config.model_dump(exclude_defaults=True, mode="json")}
            )
        return found

    def _tokenizer(self, spec: dict, parents: dict) -> str:
        project, plan = self.builder.project, self.builder.plan
        if "model" in spec:
            return project.tokenizer_of(spec["model"]["name"])
        for role in ("init", "teacher", "targets"):
            if role in parents:
                return plan.runs[parents[role]].spec["tokenizer"]
        return project.tokenizer_of(spec["teacher"]["name"])


def _head(task: Task) -> tuple[Any, ...]:
    return kinds.of(task).scored_with(task)


def _slug(spec: dict[str, Any]) -> str:
    """Say in a few words what a run is: model, methods, task. From the specification alone, so that papers share it."""
    words = [spec["root"], *(item["name"] for item in spec.get("methods", [])), spec["task"][0]]
    return re.sub(r"[^a-z0-9]+", "-", "-".join(words).lower()).strip("-")[:72].strip("-")


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:8]


def build_plan(project: Project, scale: str | None = None, papers: list[str] | None = None) -> Plan:
    """Expand the enabled (or the given) papers at a scale into runs with parents, data and seeds.

    Raises ConfigError for whatever a paper's file gets wrong, naming file and key.
    """
    chosen = project.scale(scale or project.settings.scale)
    builder = _Builder(project, chosen)
    check_chosen(project)
    for task in project.tasks.values():
        kinds.of(task).check(task)
    for name in papers or project.papers:
        paper = project.paper(name)
        entries = {section: expand_section(paper, section) for section in SECTIONS}
        for section in chosen.sections:
            builder.section(paper, section, entries[section])
        check_claims(project, paper, entries)
        for section in chosen.sections:
            builder.ask(paper, section, requested_runs(project, paper, section, entries[section], chosen))
    return builder.plan
