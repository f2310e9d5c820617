"""A machine without a network: what a paper needs is locked, copied into a mirror, and the whole chain runs on that alone."""

import os
import re
import subprocess
import sys

import pytest
import torch
import yaml
from safetensors import safe_open

from replica.assets import generated, manifest, smoke_tokenizer
from replica.assets.rows import write_parquet
from replica.config import load_project
from replica.plan import build_plan
from replica.sharing.cards import write_card
from tests.unit.assets_hub_server import Hub, serve
from tests.unit.small_project import paper
from tests.workflow.checkout import make_checkout, snakemake

pytestmark = pytest.mark.workflow
CONFIG = {
    "vocab_size": 256,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 128,
}


def write_checkout(folder):
    """A checkout with one paper, which trains a model of the hub on a data set of the hub."""
    run = {"stage": "adapt", "model": "hub-bert", "task": "hub-words", "train": {"steps": 3, "batch_size": 4}}
    other = {**run, "train": {"steps": 4, "batch_size": 4}}
    one = paper(runs={"laptop": {"student": run, "plain": other}})
    one["claims"][0]["trend"]["effect"] = "runs.student.hub-words.accuracy - runs.plain.hub-words.accuracy"
    make_checkout(folder, ["one"])
    (folder / "config/papers/one").mkdir()
    (folder / "config/papers/one/paper.yaml").write_text(yaml.safe_dump(one), encoding="utf-8")
    group = yaml.safe_load((folder / "config/tasks/smoke.yaml").read_text(encoding="utf-8"))
    tasks = group.pop("tasks")
    task = group | tasks["smoke-sentiment"] | {"name": "hub-words", "dataset": "hub-words"}
    (folder / "config/tasks/hub-words.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")
    facts = {
        "title": "t",
        "licence": "MIT",
        "redistribute": True,
        "splits": dict.fromkeys(("train", "validation", "test")),
    }
    facts["sources"] = {"hub": {"repo": "owner/words", "config": "plain"}}
    add(folder / "config/datasets.yaml", "datasets", "hub-words", facts)
    entry = {"title": "t", "architecture": "bert", "config": CONFIG, "sources": {"hub": {"repo": "owner/bert"}}}
    add(folder / "config/models.yaml", "models", "hub-bert", entry)
    return folder


def add(path, registry, name, entry):
    value = yaml.safe_load(path.read_text(encoding="utf-8"))
    value[registry][name] = entry
    path.write_text(yaml.safe_dump(value), encoding="utf-8")


def write_hub(hub, scratch):
    """Put a small pretrained encoder with its tokenizer, and a labelled data set, onto the stand-in hub."""
    from transformers import BertConfig, BertModel

    model = scratch / "bert"
    BertModel(BertConfig(**CONFIG)).save_pretrained(model)
    smoke_tokenizer.build(model)
    hub.repositories["models/owner/bert"] = {path.name: path.read_bytes() for path in model.iterdir()}
    files = {"README.md": b"# words"}
    sizes = {"train": 60, "validation": 20, "test": 20}
    for split, rows in generated.generate("sentiment", 0, {"sizes": sizes}).items():
        write_parquet(rows, scratch / f"{split}.parquet")
        files[f"plain/{split}-00000-of-00001.parquet"] = (scratch / f"{split}.parquet").read_bytes()
    hub.repositories["datasets/owner/words"] = files


def replica(folder, address, *arguments):
    """Run the command line as a person would, with the stand-in hub for the hub."""
    env = {key: value for key, value in os.environ.items() if key not in ("HF_HUB_OFFLINE", "REPLICA_MIRROR")}
    done = subprocess.run(
        [sys.executable, "-m", "replica.cli", *arguments],
        cwd=folder,
        env={**env, "HF_ENDPOINT": address},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_machine_without_a_network_runs_a_paper_on_its_mirror(tmp_path, monkeypatch):
    folder = write_checkout(tmp_path / "checkout")
    hub = Hub()
    write_hub(hub, tmp_path)
    with serve(hub) as address:
        said = replica(folder, address, "lock", "hub-words", "hub-bert")
        assert said.count("is locked at") == 2
        said = replica(folder, address, "mirror", "sync", "../mirror", "one", "--scale", "laptop")
        assert said.splitlines()[-1] == f"use it: export REPLICA_MIRROR={tmp_path / 'mirror'}"
    monkeypatch.setenv("REPLICA_MIRROR", str(tmp_path / "mirror"))
    project = load_project(folder)
    plan = build_plan(project, "laptop")
    run = plan.named["one"]["laptop"]["student"]
    snakemake(folder, f"results/laptop/runs/{run}/seed0/metrics.json")
    assert manifest.verify(folder / f"results/laptop/runs/{run}/seed0")["run"] == run
    for kind, name, repo in (("datasets", "hub-words", "owner/words"), ("models", "hub-bert", "owner/bert")):
        source = manifest.verify(folder / "assets" / kind / name)["source"]
        revision = getattr(project, kind)[name].sources.hub.revision
        assert (source["kind"], source["repo"], source["revision"]) == ("mirror", repo, revision)
    # its card's lines load it, with and without this project
    stored = folder / f"results/laptop/runs/{run}/seed0"
    text = write_card(stored, manifest.read(stored), project).read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 2
    monkeypatch.chdir(folder)
    for block in blocks:
        names = {}
        exec(block, names)
        loaded = names["model"].state_dict()
        with safe_open(stored / "model.safetensors", "pt") as tensors:
            assert set(tensors.keys()) <= set(loaded)
            assert all(torch.equal(loaded[name], tensors.get_tensor(name)) for name in tensors.keys())  # noqa: SIM118
    assert re.search(r"\| hub-words \| accuracy \| [0-9.]+ \| [0-9.]+ to [0-9.]+ \| 20 \|", text)
