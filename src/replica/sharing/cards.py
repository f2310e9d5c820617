"""Model cards of finished runs, in the hub's form: paper, method, data, metrics, licences of the parents, how to load."""

from __future__ import annotations

import json
from functools import cache, lru_cache
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from replica.assets import manifest as manifests
from replica.assets.licences import RANDOM, hub_identifier, licence_of, may_pass_on
from replica.claims.run_files import read_file
from replica.errors import AssetError
from replica.files import read_result, write_text
from replica.paths import Layout
from replica.report.sheets import markdown
from replica.tasks import kinds

if TYPE_CHECKING:
    import jinja2

    from replica.config.project import Project
    from replica.plan import Plan

CARD = "README.md"
#: Licence of this project: of weights that were trained here from random ones.
OWN = "apache-2.0"


def write_card(run_folder: Path, manifest: dict[str, Any], project: Project) -> Path:
    """Write the model card of one seed of a run into its folder and return its path.

    Everything in it comes from the run's manifest, its `metrics.json` (where it was evaluated), its `model.json`, the
    registries and the papers' files: the same files give the same bytes.

    Raises
    ------
    AssetError
        where the manifest is not that of a run.
    ResultError
        where `metrics.json` or `model.json` cannot be read.
    """
    from huggingface_hub import ModelCardData

    folder = Path(run_folder)
    missing = [key for key in ("run", "seed", "scale", "spec", "parents", "files") if key not in manifest]
    if missing:
        raise AssetError(f"{folder / manifests.NAME}: lacks `{missing[0]}`: not the manifest of a run; no card is made")
    spec = manifest["spec"]
    plan = _plan(Path(project.root).resolve(), manifest["scale"], manifest["run"])
    chain = _chain(project, plan, manifest)
    papers = _papers(project, plan, manifest["run"])
    tasks = _tasks(chain)
    metrics = _metrics(folder)
    facts = {
        "run": manifest["run"],
        "seed": manifest["seed"],
        "scale": manifest["scale"],
        "summary": _summary(spec, manifest),
        "papers": papers,
        "methods": [_method(item) for item in spec.get("methods", [])],
        "train": _train(manifest),
        "datasets": [_dataset(project, name, role) for name, role in tasks.items()],
        "metrics": [_row(*item) for item in metrics],
        "no_metrics": "Stored signals are not evaluated." if spec["stage"] == "targets" else "Not evaluated yet.",
        "level": f"{100 * project.settings.confidence_level:g}",
        "parents": _parents(project, chain),
        "tokenizer": spec.get("tokenizer"),
        "weights": _weights(manifest),
        "made": _made(manifest),
        **_loading(folder, manifest),
    }
    data = ModelCardData(
        model_name=f"{manifest['run']}-seed{manifest['seed']}",
        license=_licence(project, chain),
        library_name="transformers" if facts["plain"] else "replica",
        pipeline_tag=_pipeline(project, spec),
        tags=[
            "replica",
            manifest["scale"],
            spec["stage"],
            *[m["name"] for m in facts["methods"]],
            *[p["id"] for p in papers],
        ],
        datasets=_hub_names(project.datasets, tasks) or None,
        base_model=_hub_names(project.models, _registered(chain)) or None,
        eval_results=_results(project, metrics) or None,
    )
    text = _template().render(card_data=data.to_yaml(), **facts).rstrip() + "\n"
    path = folder / CARD
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)
    return path


@lru_cache(maxsize=1)
def _template() -> jinja2.Template:
    import jinja2

    source = resources.files("replica.sharing") / "templates" / "card.md.j2"
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)
    environment.filters["text"] = markdown  # the other values are Markdown of this module's own
    return environment.from_string(source.read_text(encoding="utf-8"))


@lru_cache(maxsize=4)
def _planned(root: Path, scale: str, all_papers: bool) -> Plan:
    from replica.config import load_project
    from replica.plan import build_plan

    project = load_project(root, quick=False)
    if all_papers:
        project = load_project(root, quick=False, papers=sorted(project.paper_folders))
    return build_plan(project, scale)


def _plan(root: Path, scale: str, run: str) -> Plan | None:
    """Return a plan that holds the run: of the enabled papers, else of every paper's file; None where none asks for it."""
    for all_papers in (False, True):
        plan = _planned(root, scale, all_papers)
        if run in plan.runs:
            return plan
    return None


def _chain(project: Project, plan: Plan | None, manifest: dict[str, Any]) -> dict[str, dict[str, Any] | None]:
    """Return the specification of the run and of every run before it; None for one that is neither planned nor here."""
    layout = Layout(project.root)
    specs: dict[str, dict[str, Any] | None] = {manifest["run"]: {"role": "itself", **manifest["spec"]}}
    waiting = [(role, parent) for role, parent in manifest["parents"].items()]
    while waiting:
        role, parent = waiting.pop(0)
        if parent["run"] in specs:
            continue
        if plan is not None and parent["run"] in plan.runs:
            known = plan.runs[parent["run"]]
            specs[parent["run"]] = {"role": role, **known.spec.content()}
            waiting += [(r, {"run": name, "seed": parent["seed"]}) for r, name in known.parents.items()]
            continue
        folder = layout.run(manifest["scale"], parent["run"], parent["seed"])
        if (folder / manifests.NAME).is_file():
            stored = manifests.read(folder)
            specs[parent["run"]] = {"role": role, **stored.get("spec", {})}
            waiting += list(stored.get("parents", {}).items())
        else:
            specs[parent["run"]] = None
    return specs


def _papers(project: Project, plan: Plan | None, run: str) -> list[dict[str, Any]]:
    from replica.config.paper_folder import read_paper

    papers = []
    for name in sorted(plan.runs[run].papers if plan else ()):
        paper = project.papers.get(name) or read_paper(project.paper_folders[name], project.task_groups)
        names = {
            known
            for section in plan.named.get(name, {}).values()
            for known, identity in section.items()
            if identity == run
        }
        facts = {"id": name, "title": paper.title, "authors": paper.authors, "venue": paper.venue, "arxiv": paper.arxiv}
        papers.append({**facts, "names": ", ".join(f"`{known}`" for known in sorted(names)) or "(as a parent)"})
    return papers


def _tasks(chain: dict[str, dict[str, Any] | None]) -> dict[str, str]:
    """Return the tasks that the run and its parents were trained on, and in which role."""
    roles: dict[str, str] = {}
    for spec in chain.values():
        if spec and "task" in spec:
            roles.setdefault(
                spec["task"][0], "trained on" if spec["role"] == "itself" else f"by way of its {spec['role']}"
            )
    return roles


def _dataset(project: Project, task_name: str, role: str) -> dict[str, str]:
    task = project.tasks.get(task_name)
    if task is None:
        gone = {
            "name": task_name,
            "title": "a task that is registered no more",
            "splits": "unknown",
            "pass_on": "unknown, so no",
        }
        return {**gone, "task": role, "licence": "unknown"}
    entry = project.dataset(task.dataset)
    splits = [_split(use, split, entry.splits.get(split)) for use, split in task.splits if isinstance(split, str)]
    return {
        "name": task.dataset,
        "title": entry.title,
        "task": f"{task_name}, {role}",
        "splits": "; ".join(splits),
        "licence": entry.licence + (f" ({entry.terms})" if entry.terms else ""),
        "pass_on": "yes" if may_pass_on(entry) else "unknown, so no" if entry.redistribute == "unknown" else "no",
    }


def _split(use: str, split: str, content: Any) -> str:
    return markdown(f"{use}: {split}") + (f", {content.rows:,} rows, sha256 `{content.sha256[:12]}`" if content else "")


def _metrics(folder: Path) -> list[tuple[str, str, dict[str, Any]]]:
    """Return task, metric and score of every number of `metrics.json`; none where the run was not evaluated."""
    tasks = read_file(folder / "metrics.json", "tasks") or {}
    return [(task, metric, score) for task, metrics in tasks.items() for metric, score in metrics.items()]


def _row(task: str, metric: str, score: dict[str, Any]) -> dict[str, str]:
    low, high = score.get("low"), score.get("high")
    interval = f"{low:.2f} to {high:.2f}" if low is not None and high is not None else "none"
    value = "undefined" if score.get("value") is None else f"{score['value']:.2f}"
    shown = {"task": task, "metric": metric, "value": value, "interval": interval}
    return {**shown, "n": f"{score.get('n', 0):,}", "split": score.get("split", "")}


def _results(project: Project, metrics: list[tuple[str, str, dict[str, Any]]]) -> list[Any]:
    from huggingface_hub import EvalResult

    results = []
    for name, metric, result in metrics:
        task = project.tasks.get(name)
        if task is None or result.get("value") is None:
            continue
        entry = project.dataset(task.dataset)
        hub = entry.sources.hub
        results.append(
            EvalResult(
                task_type=kinds.of(task).pipeline,
                dataset_type=hub.repo if hub else task.dataset,
                dataset_name=entry.title,
                dataset_config=hub.config if hub else None,
                dataset_split=getattr(task.splits, result.get("split", ""), None) or result.get("split"),
                metric_type=metric,
                metric_value=round(result["value"], 2),
            )
        )
    return results


def _registered(chain: dict[str, dict[str, Any] | None]) -> dict[str, str]:
    """Return the registered models whose weights went into the run, and how."""
    roles: dict[str, str] = {}
    for spec in chain.values():
        for key, role in (("model", "start"), ("teacher", "teacher")):
            model = (spec or {}).get(key)
            if model and model["weights"] != "random":
                roles.setdefault(model["name"], role if spec["role"] == "itself" else f"{role} of its {spec['role']}")
    return roles


def _parents(project: Project, chain: dict[str, dict[str, Any] | None]) -> list[dict[str, str]]:
    rows = []
    for name, role in _registered(chain).items():
        entry = project.models.get(name)
        known = (licence_of(entry), entry.terms or "none given") if entry else ("unknown", "registered no more")
        rows.append({"name": f"`{name}`", "role": role, "licence": known[0], "terms": known[1]})
    for run, spec in list(chain.items())[1:]:
        if spec is None:
            rows.append(
                {"name": f"run `{run}`", "role": "parent", "licence": "unknown", "terms": "neither planned nor here"}
            )
        else:
            rows.append(
                {"name": f"run `{run}`", "role": spec["role"], "licence": "as its own parents", "terms": "made here"}
            )
    if not rows:
        rows.append({"name": "none", "role": "start", "licence": RANDOM, "terms": "none"})
    return rows


def _licence(project: Project, chain: dict[str, dict[str, Any] | None]) -> str:
    """Return the hub's identifier of the licence that all weights before it share; `other` where they do not."""
    licences = {
        hub_identifier(project.models[name].licence) if name in project.models else "unknown"
        for name in _registered(chain)
    }
    if None in chain.values():
        licences.add("unknown")
    return OWN if not licences else licences.pop() if len(licences) == 1 else "other"


def _hub_names(registry: dict[str, Any], names: Any) -> list[str]:
    """Return the hub's repositories of registered names that have one."""
    entries = [registry[name] for name in names if name in registry]
    return list(dict.fromkeys(e.sources.hub.repo for e in entries if e.sources is not None and e.sources.hub))


def _method(item: dict[str, Any]) -> dict[str, str]:
    settings = {key: value for key, value in item.items() if key not in ("name", "version")}
    shown = ", ".join(f"{key} {json.dumps(value)}" for key, value in settings.items())
    return {"name": item["name"], "version": str(item["version"]), "settings": shown or "none"}


def _train(manifest: dict[str, Any]) -> str:
    shown = ", ".join(f"{key} {json.dumps(value)}" for key, value in manifest.get("train", {}).items())
    return shown or "none, its teacher's signals were stored"


def _pipeline(project: Project, spec: dict[str, Any]) -> str | None:
    task = project.tasks.get(spec["task"][0])
    return kinds.of(task).pipeline if task else None


def _summary(spec: dict[str, Any], manifest: dict[str, Any]) -> str:
    if spec["stage"] == "targets":
        return f"Signals of a teacher (`{spec['root']}`) over the training split of task `{spec['task'][0]}`, stored for its students."
    counts = manifest.get("counts", {})
    size = (
        f" {counts['total_parameters']:,} parameters, {counts['trainable_parameters']:,} of them trained."
        if counts
        else ""
    )
    return f"Stage `{spec['stage']}` of task `{spec['task'][0]}`; the chain starts from `{spec['root']}`.{size}"


def _weights(manifest: dict[str, Any]) -> str:
    shown = [
        f"`{name}` has sha256 `{fact['sha256']}`."
        for name, fact in manifest["files"].items()
        if name.endswith(".safetensors")
    ]
    return " ".join(shown)


def _made(manifest: dict[str, Any]) -> str:
    hardware = manifest.get("hardware", {})
    versions = ", ".join(f"{name} {value}" for name, value in manifest.get("versions", {}).items())
    where = hardware.get("gpu") or hardware.get("processor") or "an unknown processor"
    took = f"in {manifest.get('seconds', 0)} s, precision {manifest.get('precision')}, ended {manifest.get('finished')}"
    return markdown(f"Made with {versions} on {where} {took}.")


def _loading(folder: Path, manifest: dict[str, Any]) -> dict[str, str]:
    """Return the lines that load the artifact from a checkout's root, and those for transformers alone where that is possible."""
    shown = Layout().run(manifest["scale"], manifest["run"], manifest["seed"]).as_posix()
    if manifest["spec"]["stage"] == "targets":
        lines = ["from safetensors.torch import load_file", "", f'signals = load_file("{shown}/signals.safetensors")']
        return {"load": "\n".join(lines), "plain": ""}
    lines = ["from replica.methods.stored import load_model", "", f'model, methods = load_model("{shown}")']
    return {"load": "\n".join(lines), "plain": "\n".join(_plain(folder, shown))}


def _plain(folder: Path, shown: str) -> list[str]:
    """Return lines for transformers alone; none where a method's modules or an architecture of this project are in the model."""
    about = read_result(folder / "model.json", ["architecture", "config", "head", "labels", "structure", "tied"])
    head, architecture = about["head"], about["architecture"]
    # transformers ties mT5's output layer, which is stored with weights of its own
    if about["structure"] or not _in_transformers(architecture) or architecture == "mt5":
        return []
    from replica.models.heads import FURTHER_HEADS, HEADS, output_count

    labels = output_count(head, about["labels"])
    more = f", num_labels={labels}" if labels is not None else ""
    kind = {**HEADS, **FURTHER_HEADS}[head]
    return [
        "import json, safetensors.torch, transformers",
        "",
        f'about = json.load(open("{shown}/model.json"))',
        f'config = transformers.AutoConfig.for_model(about["architecture"], **about["config"]{more})',
        f"model = transformers.{kind}.from_config(config).eval()",
        f'model.load_state_dict(safetensors.torch.load_file("{shown}/model.safetensors"), strict=not about["tied"])',
    ]


@cache
def _in_transformers(architecture: str) -> bool:
    """Say whether transformers itself has an architecture, by its files: importing it takes seconds."""
    package = find_spec("transformers")
    places = package.submodule_search_locations if package else None
    return any((Path(place) / "models" / architecture.replace("-", "_")).is_dir() for place in places or ())
