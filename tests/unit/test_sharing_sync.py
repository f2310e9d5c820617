"""`replica mirror sync`: what papers need is copied whole, and a machine without a network runs on it; parts are never official."""

import json
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
import yaml

from replica.assets import manifest, retrieve_dataset, retrieve_model
from replica.assets.lock import lock
from replica.config import load_project
from replica.errors import AssetError
from replica.plan import build_plan
from replica.sharing.sync import sync
from tests.unit.assets_helpers import REVISION, hash_rows, only_wheels_of, safetensors, sha256, wheel
from tests.unit.small_project import PAPER, write_project
from tests.unit.test_assets_hub import parquet

NEW = "f" * 40
TRAIN = [{"text": f"row {number}", "label": number % 2} for number in range(30)]
TEST = [{"text": f"new {number}", "label": number % 2} for number in range(4)]
DECLARED = {"train": "plain/train*", "test": "plain/test*"}
FILES = [{"split": split, "path": path} for split, path in DECLARED.items()]
README = f"---\n{yaml.safe_dump({'configs': [{'config_name': 'plain', 'data_files': FILES}]})}---\n".encode()
PARTS = {
    "plain/train-00000-of-00002.parquet": parquet(TRAIN[:20]),
    "plain/train-00001-of-00002.parquet": parquet(TRAIN[20:]),
    "plain/test-00000-of-00001.parquet": parquet(TEST),
}
SMALL = {"plain/train-0.parquet": parquet(TRAIN[:5]), "plain/test-0.parquet": parquet(TEST)}
CONFIG = json.dumps({"model_type": "bert", "hidden_size": 16}).encode()
MODEL = {"config.json": CONFIG, "model.safetensors": safetensors(b"\1" * 4096), "vocab.txt": b"a\n"}


@pytest.fixture
def root(tmp_path, hub):
    """A checkout whose paper trains a model of the hub on a data set of the hub, both locked."""
    root = write_project(tmp_path / "checkout")
    hub.repositories |= {"datasets/owner/data": {"README.md": README, **PARTS}, "models/owner/model": MODEL}
    value = yaml.safe_load((root / "config/datasets.yaml").read_text(encoding="utf-8"))
    value["datasets"]["words"] |= {
        "licence": "CC BY-NC 4.0",
        "redistribute": False,
        "sources": {"hub": {"repo": "owner/data", "config": "plain", "splits": {"validation": "test"}}},
        "splits": {"train": None, "validation": None, "test": None},
    }
    (root / "config/datasets.yaml").write_text(yaml.safe_dump(value), encoding="utf-8")
    value = yaml.safe_load((root / "config/models.yaml").read_text(encoding="utf-8"))
    value["models"]["base"] |= {"sources": {"hub": {"repo": "owner/model"}}, "config": {"hidden_size": 16}}
    (root / "config/models.yaml").write_text(yaml.safe_dump(value), encoding="utf-8")
    assert lock(load_project(root)).failed == []
    hub.asked.clear()
    return root


def synced(root, folder, missing=(), **options):
    """Copy, and return what was said; `missing` are the patterns of what could not be had."""
    project = load_project(root)
    lines = []
    found = sync(project, build_plan(project, "laptop"), folder, lines.append, **options)
    assert len(found) == len(missing), found
    for line, pattern in zip(found, missing, strict=True):
        assert re.search(pattern, line), line
    return lines


def offline(monkeypatch, folder):
    """A machine that reaches nothing but its mirror."""
    monkeypatch.setenv("REPLICA_MIRROR", str(folder))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")


def data_of(root, out):
    return retrieve_dataset(load_project(root), "words", out)


def test_a_machine_without_a_network_runs_on_the_mirror(root, hub, tmp_path, monkeypatch):
    first = data_of(root, tmp_path / "from-hub")
    lines = synced(root, tmp_path / "mirror")
    assert f"words: 34 rows of datasets/owner/data at {REVISION} (licence: CC BY-NC 4.0; not to be passed on)" in lines
    offline(monkeypatch, tmp_path / "mirror")
    folder = data_of(root, tmp_path / "from-mirror")
    for split in ("train", "validation", "test"):
        assert (folder / f"{split}.parquet").read_bytes() == (first / f"{split}.parquet").read_bytes()
    source = manifest.verify(folder)["source"]
    assert source == {"kind": "mirror", "repo": "owner/data", "config": "plain", "revision": REVISION}
    model = retrieve_model(load_project(root), "base", tmp_path / "model")
    assert {name: (model / name).read_bytes() for name in MODEL} == MODEL
    assert manifest.verify(model)["source"] == {"kind": "mirror", "repo": "owner/model", "revision": REVISION}


def test_the_manifest_says_what_every_file_is(root, tmp_path):
    synced(root, tmp_path / "mirror")
    value = json.loads((tmp_path / "mirror/MANIFEST.json").read_text(encoding="utf-8"))
    entries = {entry["path"]: entry for entry in value["splits"]}
    assert set(entries) == {f"datasets/owner/data/{name}" for name in PARTS}
    entry = entries["datasets/owner/data/plain/train-00001-of-00002.parquet"]
    data = PARTS["plain/train-00001-of-00002.parquet"]
    assert entry == {
        "repo_id": "owner/data",
        "config": "plain",
        "split": "train",
        "path": entry["path"],
        "rows": 10,
        "official_rows": 30,
        "complete": True,
        "columns": ["text", "label"],
        "label_names": {},
        "license": "CC BY-NC 4.0",
        "source": [{"repo": "owner/data", "commit": REVISION, "path": "plain/train-00001-of-00002.parquet"}],
        "sha256": sha256(data),
        "bytes": len(data),
        "rows_sha256": hash_rows(TRAIN[20:]).sha256,
        "notes": "",
    }
    declared = (tmp_path / "mirror/datasets/owner/data/README.md").read_text(encoding="utf-8")
    assert yaml.safe_load(declared.split("---")[1])["configs"] == [
        {
            "config_name": "plain",
            "data_files": [
                {"split": "test", "path": ["plain/test-00000-of-00001.parquet"]},
                {"split": "train", "path": sorted(PARTS)[1:]},
            ],
        }
    ]
    files = value["repositories"]["models/owner/model"]["files"]
    assert files["vocab.txt"] == {"bytes": 2, "sha256": sha256(b"a\n")}


def test_the_hubs_own_library_reads_a_mirror(root, tmp_path, monkeypatch):
    import datasets

    synced(root, tmp_path / "mirror")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    place = str(tmp_path / "mirror/datasets/owner/data")
    found = datasets.load_dataset(place, "plain", split="train", cache_dir=str(tmp_path / "cache"))
    assert found.to_list() == TRAIN


def test_what_is_there_is_not_asked_for_again(root, hub, tmp_path):
    synced(root, tmp_path / "mirror")
    before = (tmp_path / "mirror/MANIFEST.json").read_bytes()
    hub.asked.clear()
    assert all(": there, " in line for line in synced(root, tmp_path / "mirror"))
    assert hub.asked == []
    assert (tmp_path / "mirror/MANIFEST.json").read_bytes() == before
    damaged = tmp_path / "mirror/datasets/owner/data/plain/test-00000-of-00001.parquet"
    damaged.write_bytes(b"x")
    synced(root, tmp_path / "mirror")
    assert damaged.read_bytes() == PARTS["plain/test-00000-of-00001.parquet"]
    assert [name for name, _ in hub.started if name.startswith("plain/train")] == list(PARTS)[:2]


def test_an_interrupted_copy_has_no_official_name_and_goes_on(root, hub, tmp_path, monkeypatch):
    from huggingface_hub import constants, file_download

    monkeypatch.setattr(file_download, "time", SimpleNamespace(sleep=lambda seconds: None))
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 256)
    second = "plain/train-00001-of-00002.parquet"
    hub.breaks[second] = [600] + [0] * 20
    with pytest.raises(AssetError, match="truncated on its way"):
        synced(root, tmp_path / "mirror")
    assert not list((tmp_path / "mirror" / "datasets").rglob("train*"))
    with monkeypatch.context() as patch:
        offline(patch, tmp_path / "mirror")
        with pytest.raises(AssetError, match=r"mirror: the mirror's owner/data plain has no split 'train'"):
            data_of(root, tmp_path / "d")
    hub.breaks.clear()
    hub.started.clear()
    synced(root, tmp_path / "mirror")
    assert (second, 512) in hub.started
    assert ("plain/train-00000-of-00002.parquet", 0) not in hub.started
    assert not list((tmp_path / "mirror" / ".sync").glob("*data*"))
    offline(monkeypatch, tmp_path / "mirror")
    assert pq.read_table(data_of(root, tmp_path / "d") / "train.parquet").num_rows == 30


def test_a_part_of_a_split_has_another_name_and_is_never_taken_for_it(root, hub, tmp_path, monkeypatch):
    top = tmp_path / "mirror"
    synced(root, top, most_rows=7)
    place = top / "datasets/owner/data/plain"
    assert sorted(path.name for path in place.iterdir()) == [
        "test-00000-of-00001.parquet",
        "train_subset-00000-of-00001.parquet",
    ]
    [entry] = [
        e
        for e in json.loads((top / "MANIFEST.json").read_text(encoding="utf-8"))["splits"]
        if e["split"] == "train_subset"
    ]
    assert (entry["rows"], entry["official_rows"], entry["complete"]) == (7, 30, False)
    assert pq.read_table(place / "train_subset-00000-of-00001.parquet").to_pylist() == TRAIN[:7]
    offline(monkeypatch, top)
    with pytest.raises(AssetError, match=r"train_subset is a part of it and never taken for the official one"):
        data_of(root, tmp_path / "d")
    # the hub's README has the pattern `plain/train*`, which names it as the training split
    (top / "datasets/owner/data/README.md").write_bytes(README)
    with pytest.raises(AssetError, match=r"a part of split 'train', not the official one"):
        data_of(root, tmp_path / "d")
    (top / "datasets/owner/data/README.md").unlink()
    with pytest.raises(AssetError, match=r"train_subset is a part of it and never taken for the official one"):
        data_of(root, tmp_path / "d")
    # under the official name it is in no line of the manifest
    (place / "train_subset-00000-of-00001.parquet").rename(place / "train-00000-of-00001.parquet")
    with pytest.raises(AssetError, match=r"not the hub's file \(it is in no line of the mirror's MANIFEST.json\)"):
        data_of(root, tmp_path / "d")
    # and one of two parts is not the split, even if it is right
    (place / "train-00000-of-00001.parquet").unlink()
    (place / "train-00000-of-00002.parquet").write_bytes(PARTS["plain/train-00000-of-00002.parquet"])
    with pytest.raises(AssetError, match=r"split 'train' is not complete: it has 1 of 2 parts"):
        data_of(root, tmp_path / "d")
    assert not (tmp_path / "d").exists()
    monkeypatch.setenv("HF_ENDPOINT", hub.address)
    synced(root, top)
    offline(monkeypatch, top)
    assert pq.read_table(data_of(root, tmp_path / "d") / "train.parquet").to_pylist() == TRAIN


def test_files_that_differ_from_the_lock_are_named(root, tmp_path, monkeypatch):
    top = tmp_path / "mirror"
    synced(root, top)
    offline(monkeypatch, top)
    (top / "models/owner/model/vocab.txt").write_bytes(b"b\n")
    with pytest.raises(
        AssetError, match=r"mirror owner/model: vocab.txt is another file than config/hub.lock.yaml remembers"
    ):
        retrieve_model(load_project(root), "base", tmp_path / "m")
    other = parquet(TEST[::-1])
    (top / "datasets/owner/data/plain/test-00000-of-00001.parquet").write_bytes(other)
    with pytest.raises(AssetError, match=rf"test-00000-of-00001.parquet is another file .*: {sha256(other)}, locked"):
        data_of(root, tmp_path / "d")


def test_a_mirror_at_another_commit_is_not_taken_and_is_brought_up(root, hub, tmp_path, monkeypatch):
    top = tmp_path / "mirror"
    synced(root, top)
    hub.heads["datasets/owner/data"] = NEW
    hub.repositories["datasets/owner/data"] = {"README.md": README, **SMALL}
    lock(load_project(root), ["words"], update=True)
    with monkeypatch.context() as patch:
        offline(patch, top)
        with pytest.raises(
            AssetError, match=rf"wrong revision: the mirror has owner/data at {REVISION}, locked is {NEW}"
        ):
            data_of(root, tmp_path / "d")
    lines = synced(root, top)
    assert f"datasets/owner/data: removed what was copied at {REVISION}" in lines
    offline(monkeypatch, top)
    assert pq.read_table(data_of(root, tmp_path / "d") / "train.parquet").num_rows == 5
    assert sorted(path.name for path in (top / "datasets/owner/data/plain").iterdir()) == [
        "test-0.parquet",
        "train-0.parquet",
    ]


def test_an_asset_that_was_retrieved_at_another_commit_is_not_counted(root, hub, tmp_path):
    from replica.assets.at_hand import read_at_hand

    data_of(root, root / "assets/datasets/words")
    hub.heads["datasets/owner/data"] = NEW
    lock(load_project(root), ["words"], update=True)
    with pytest.raises(
        AssetError, match=rf"wrong revision: words was retrieved at {REVISION}, config/hub.lock.yaml says {NEW}"
    ):
        read_at_hand(load_project(root), "words", ["train"], tmp_path)


def test_other_peoples_files_stay(root, tmp_path):
    place = tmp_path / "mirror/datasets/owner/data/plain"
    place.mkdir(parents=True)
    (place / "train-00000-of-00001.parquet").write_bytes(b"mine")
    said = [r"words: .* was not copied by `replica mirror sync`; give it another folder"]
    assert "base" in synced(root, tmp_path / "mirror", said)[0]
    assert (place / "train-00000-of-00001.parquet").read_bytes() == b"mine"


def test_what_is_not_locked_is_said_and_keeps_nothing_else_back(root, hub, tmp_path):
    stored = yaml.safe_load((root / "config/hub.lock.yaml").read_text(encoding="utf-8"))
    del stored["datasets"]["words"]
    (root / "config/hub.lock.yaml").write_text(yaml.safe_dump(stored), encoding="utf-8")
    said = [r"^words: no commit in config/hub.lock.yaml; run `replica lock words`$"]
    assert synced(root, tmp_path / "mirror", said)[0].startswith("base: ")
    assert not any("owner/data" in path for path in hub.asked)


def test_two_commits_of_one_repository_are_refused(root, tmp_path):
    path = root / "config/datasets.yaml"
    value = yaml.safe_load(path.read_text(encoding="utf-8"))
    value["datasets"]["more"] = value["datasets"]["words"]
    path.write_text(yaml.safe_dump(value), encoding="utf-8")
    text = (root / "config/hub.lock.yaml").read_text(encoding="utf-8")
    stored = yaml.safe_load(text)
    stored["datasets"]["more"] = {"repo": "owner/data", "revision": NEW}
    (root / "config/hub.lock.yaml").write_text(yaml.safe_dump(stored), encoding="utf-8")
    task = yaml.safe_load((root / "config/tasks/words.yaml").read_text(encoding="utf-8"))
    (root / "config/tasks/more.yaml").write_text(
        yaml.safe_dump({**task, "name": "more", "dataset": "more"}), encoding="utf-8"
    )
    paper = yaml.safe_load((root / "config/papers/one/paper.yaml").read_text(encoding="utf-8"))
    paper["runs"]["laptop"]["plain"]["task"] = "more"
    paper["runs"]["laptop"]["plain"]["evaluate"] = ["more", "words"]
    (root / "config/papers/one/paper.yaml").write_text(yaml.safe_dump(paper), encoding="utf-8")
    with pytest.raises(AssetError, match=rf"datasets/owner/data: more is locked at {NEW}, words at {REVISION}"):
        synced(root, tmp_path / "mirror")


def test_rows_that_the_registry_does_not_pin_are_not_copied(root, tmp_path):
    path = root / "config/datasets.yaml"
    value = yaml.safe_load(path.read_text(encoding="utf-8"))
    value["datasets"]["words"]["splits"]["train"] = {"rows": 30, "sha256": "0" * 64}
    path.write_text(yaml.safe_dump(value), encoding="utf-8")
    synced(
        root,
        tmp_path / "mirror",
        [rf"words: split 'train' of the hub has 30 rows with sha256 {hash_rows(TRAIN).sha256}"],
    )
    assert not list((tmp_path / "mirror/datasets").rglob("train*"))


def test_pickles_are_not_copied(root, hub, tmp_path):
    hub.repositories["models/owner/model"] = {"config.json": CONFIG, "pytorch_model.bin": b"\x80\x04"}
    text = (root / "config/hub.lock.yaml").read_text(encoding="utf-8")
    stored = yaml.safe_load(text)
    stored["models"]["base"].pop("files")
    (root / "config/hub.lock.yaml").write_text(yaml.safe_dump(stored), encoding="utf-8")
    synced(
        root, tmp_path / "mirror", [r"owner/model: refused, it has no model.safetensors \(weights: pytorch_model.bin\)"]
    )
    assert not (tmp_path / "mirror/models/owner/model").exists()


def test_wheels_are_copied_and_read_without_an_index(root, hub, tmp_path, monkeypatch):
    made = wheel(tmp_path / "index", "small-model", {f"m/{name}": data for name, data in MODEL.items()})
    only_wheels_of(monkeypatch, made.parent)
    path = root / "config/models.yaml"
    value = yaml.safe_load(path.read_text(encoding="utf-8"))
    members = {name: f"m/{name}" for name in MODEL}
    source = {"distribution": "small-model", "version": "1.0", "sha256": sha256(made.read_bytes()), "members": members}
    value["models"]["base"]["sources"] = {"wheel": source}
    path.write_text(yaml.safe_dump(value), encoding="utf-8")
    (root / "config/hub.lock.yaml").unlink()
    assert lock(load_project(root)).failed == []
    top = tmp_path / "mirror"
    assert "base: wheels/small_model-1.0-py3-none-any.whl, 0.0 MB" in synced(root, top)
    shutil.rmtree(made.parent)
    offline(monkeypatch, top)
    folder = retrieve_model(load_project(root), "base", tmp_path / "m")
    assert manifest.verify(folder)["source"]["wheel_sha256"] == source["sha256"]
    assert "base: there, wheels/small_model-1.0-py3-none-any.whl" in synced(root, top)


def test_the_command_says_what_it_did_and_how_to_use_it(root, tmp_path, monkeypatch, capsys):
    from replica.cli import main

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["replica", "--root", str(root), "mirror", "sync", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return ended.value.code, said.out, said.err

    top = tmp_path / "mirror"
    status, out, err = run(str(top), PAPER["id"], "--scale", "laptop")
    assert (status, err) == (0, "")
    assert out.splitlines()[-1] == f"use it: export REPLICA_MIRROR={top}"
    status, _, err = run(str(top), "two")
    assert (status, err) == (2, "error: config/config.yaml: papers: unknown paper 'two'; known: one\n")
    assert run(str(top), "--rows", "0")[::2] == (2, "error: --rows 0: a split needs at least one row\n")
    assert Path(top / ".sync").is_dir()
