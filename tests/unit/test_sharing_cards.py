"""Model cards: what they say comes from manifest, metrics and registries, and the lines they show load the checkpoint."""

import json
import re

import pytest
import torch

from replica import models
from replica.assets import manifest
from replica.config import load_project
from replica.errors import AssetError
from replica.methods import parse
from replica.methods.base import Context
from replica.methods.stored import save_model
from replica.paths import Layout
from replica.plan import build_plan
from replica.seals import write_sealed
from replica.sharing.cards import write_card

from .small_models import same
from .small_project import _model, paper, write_project

METRICS = {"words": {"accuracy": {"value": 73.5132, "low": 71.3656, "high": 75.3854, "n": 1816, "split": "report"}}}


def checkout(folder, **changes):
    """A checkout of one paper, its plan, and its project."""
    root = write_project(folder, paper(**changes))
    project = load_project(root, quick=False)
    return project, build_plan(project, "laptop")


def made(project, plan, name, *, methods=(), metrics=METRICS, head="classification"):
    """Store one seed of a run as training does, and return its folder."""
    run = plan.run(plan.named["one"]["laptop"][name])
    folder = Layout(project.root).run("laptop", run.id, 0)
    model = models.build(project.model(run.spec.root), head=head, labels=2, seed=3)
    structure = []
    for reference in methods:
        found, config = parse(reference)
        found.create(config).prepare(model, Context())
        structure.append(reference)
    save_model(model, folder, head=head, labels=2, structure=structure)
    parents = {role: {"run": parent, "seed": 0, "manifest": "0" * 64} for role, parent in run.parents.items()}
    manifest.write(
        folder,
        run=run.id,
        seed=0,
        scale="laptop",
        spec=run.spec.content(),
        parents=parents,
        train=run.spec.train,
        counts={"total_parameters": 1234, "trainable_parameters": 1000},
        versions={"torch": "2.13.0"},
        hardware={"host": "secret-host", "processor": "A CPU"},
        precision="fp32",
        seconds=1.5,
        finished="2026-01-01T00:00:00Z",
    )
    if metrics:
        inputs = {"manifest.json": manifest.digest(folder)}
        write_sealed(folder / "metrics.json", {"run": run.id, "seed": 0, "tasks": metrics}, inputs=inputs)
    return folder, model


def card_of(project, folder):
    path = write_card(folder, manifest.read(folder), project)
    assert path == folder / "README.md"
    return path.read_text(encoding="utf-8")


def shown_lines(text):
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_a_card_says_paper_method_data_metrics_and_licences(tmp_path):
    from huggingface_hub import ModelCard

    project, plan = checkout(tmp_path)
    folder, _ = made(project, plan, "student")
    text = card_of(project, folder)
    for part in (
        "One (A, V): `one`, run `student`",
        "| logit-distillation | 1 | none |",
        "| `words`: words | words, trained on | train: train, 100 rows, sha256 `000000000000`;",
        "| words | accuracy | 73.51 | 71.37 to 75.39 | 1,816 | report |",
        "Intervals are at the 95 % level",
        f"| run `{plan.named['one']['laptop']['teacher']}` | teacher |",
        "1,234 parameters, 1,000 of them trained",
        manifest.read(folder)["files"]["model.safetensors"]["sha256"],
    ):
        assert part in text
    assert "secret-host" not in text
    assert str(tmp_path) not in text
    data = ModelCard.load(folder / "README.md").data
    assert data.license == "apache-2.0"
    assert {"one", "logit-distillation", "laptop"} <= set(data.tags)
    [result] = data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_split) == ("accuracy", 73.51, "test")


def test_the_same_files_give_the_same_card(tmp_path):
    project, plan = checkout(tmp_path)
    folder, _ = made(project, plan, "plain")
    first = card_of(project, folder)
    manifest.verify(folder)  # the card is beside what the manifest names, not part of it
    assert card_of(project, folder) == first


def test_the_shown_lines_load_the_checkpoint(tmp_path, monkeypatch):
    project, plan = checkout(tmp_path)
    folder, model = made(project, plan, "plain")
    blocks = shown_lines(card_of(project, folder))
    assert len(blocks) == 2
    assert len([line for line in blocks[0].splitlines() if line]) <= 3
    monkeypatch.chdir(tmp_path)
    for block in blocks:
        names = {}
        exec(block, names)
        assert same(names["model"], model)
        assert not names["model"].training
        inputs = {"input_ids": torch.tensor([[2, 5, 9, 3]])}
        assert torch.equal(names["model"](**inputs).logits, model(**inputs).logits)
    assert "replica" not in blocks[1]


def test_the_lines_tie_what_was_stored_once(tmp_path, monkeypatch):
    project, plan = checkout(tmp_path)
    folder, model = made(project, plan, "plain", head="mlm", metrics=None)
    assert json.loads((folder / "model.json").read_text(encoding="utf-8"))["tied"]
    monkeypatch.chdir(tmp_path)
    for block in shown_lines(card_of(project, folder)):
        names = {}
        exec(block, names)
        assert same(names["model"], model)


def test_a_model_with_modules_of_a_method_is_loaded_by_this_project_alone(tmp_path, monkeypatch):
    project, plan = checkout(tmp_path)
    folder, model = made(project, plan, "plain", methods=[{"name": "compacter", "reduction": 2, "n": 2}])
    blocks = shown_lines(card_of(project, folder))
    assert len(blocks) == 1
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(blocks[0], names)
    assert same(names["model"], model)


def test_licences_of_registered_weights_come_from_the_registry(tmp_path):
    import yaml

    root = write_project(tmp_path)
    hub = {"hub": {"repo": "owner/base"}}
    values = yaml.safe_load((root / "config/models.yaml").read_text(encoding="utf-8"))
    values["models"]["base"] = _model(
        16, sources=hub, licence="CC BY-SA 4.0", terms="a | b\n<img src=x> `c`", redistribute=True
    )
    (root / "config/models.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    project = load_project(root, quick=False)
    plan = build_plan(project, "laptop")
    folder, _ = made(project, plan, "student")
    text = card_of(project, folder)
    assert "| `base` | start of its teacher | CC BY-SA 4.0 | a \\| b &lt;img src=x&gt; \\`c\\` |" in text
    assert "license: cc-by-sa-4.0" in text
    assert "- owner/base" in text or "base_model: owner/base" in text
    values["models"]["base"]["licence"] = "own terms of the owner"
    (root / "config/models.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    assert "license: other" in card_of(load_project(root, quick=False), folder)


def test_a_run_without_metrics_or_paper_says_so(tmp_path):
    project, plan = checkout(tmp_path)
    folder, _ = made(project, plan, "plain", metrics=None)
    assert "Not evaluated yet." in card_of(project, folder)
    value = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    value["run"] = "adapt-gone-00000000"
    value["parents"] = {"init": {"run": "teacher-gone-00000000", "seed": 0, "manifest": "0" * 64}}
    text = write_card(folder, value, project).read_text(encoding="utf-8")
    assert "No paper of this configuration asks for this run." in text
    assert "| run `teacher-gone-00000000` | parent | unknown | neither planned nor here |" in text
    assert "license: unknown" in text


def test_what_is_no_run_gets_no_card(tmp_path):
    project, _ = checkout(tmp_path)
    with pytest.raises(AssetError, match=r"manifest.json: lacks `run`: not the manifest of a run"):
        write_card(tmp_path / "x", {"files": {}}, project)
    assert not (tmp_path / "x").exists()
