"""`replica lock`: commits and digests of the hub are remembered, kept, checked and moved only when asked to."""

import io
import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from replica.assets import manifest, retrieve_dataset, retrieve_model
from replica.assets.lock import lock
from replica.config import load_project
from replica.config.hub_lock import FILE, HubLock, Locked, read_lock, write_lock
from replica.errors import AssetError, ConfigError
from replica.plan.outputs import asset_fingerprint
from tests.unit.assets_helpers import REVISION, safetensors, sha256
from tests.unit.assets_hub_server import CONVERTED, blob_id
from tests.unit.small_project import write_project

ROOT = Path(__file__).resolve().parents[2]
NEW = "f" * 40
CONFIG = json.dumps({"model_type": "bert", "hidden_size": 16}).encode()
MODEL = {"config.json": CONFIG, "model.safetensors": safetensors(b"\1" * 64), "vocab.txt": b"a\n", "README.md": b"#"}


def parquet(*rows):
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([{"text": text} for text in rows]), buffer)
    return buffer.getvalue()


DATA = {
    "README.md": b"# reviews",
    "plain/train-00000-of-00001.parquet": parquet("one", "two"),
    "plain/test-00000-of-00001.parquet": parquet("three"),
    "other/train-00000-of-00001.parquet": parquet("four"),
}


def change(root, registry, name, **values):
    path = root / "config" / f"{registry}.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    content[registry].setdefault(name, {}).update(values)
    path.write_text(yaml.safe_dump(content), encoding="utf-8")


@pytest.fixture
def root(tmp_path, hub):
    """A checkout with one data set and one model of the hub."""
    root = write_project(tmp_path / "checkout")
    hub.repositories |= {"datasets/owner/data": DATA, "models/owner/model": MODEL}
    source = {"hub": {"repo": "owner/data", "config": "plain"}}
    facts = {"title": "t", "licence": "MIT", "redistribute": True, "splits": {"train": None, "test": None}}
    change(root, "datasets", "reviews", **facts, sources=source)
    facts = {"title": "t", "architecture": "bert", "config": {"hidden_size": 16}}
    change(root, "models", "encoder", **facts, sources={"hub": {"repo": "owner/model"}})
    return root


def locked(root, *names, **options):
    return lock(load_project(root), names, **options)


def test_commits_and_digests_are_written_and_read_by_the_source(root, hub):
    outcome = locked(root)
    assert outcome.failed == []
    assert outcome.lines == [
        f"reviews: owner/data is locked at {REVISION}, 2 files",
        f"encoder: owner/model is locked at {REVISION}, 3 files",
    ]
    stored = yaml.safe_load((root / FILE).read_text(encoding="utf-8"))
    assert stored["datasets"]["reviews"] == {
        "repo": "owner/data",
        "revision": REVISION,
        "files": {name: sha256(DATA[name]) for name in list(DATA)[1:3]},
    }
    assert stored["models"]["encoder"]["files"] == {
        "config.json": blob_id(CONFIG),
        "model.safetensors": sha256(MODEL["model.safetensors"]),
        "vocab.txt": blob_id(MODEL["vocab.txt"]),
    }
    project = load_project(root)
    folder = retrieve_dataset(project, "reviews", root / "assets/datasets/reviews")
    assert manifest.verify(folder)["source"]["revision"] == REVISION
    assert manifest.verify(retrieve_model(project, "encoder", root / "assets/models/encoder"))
    hub.asked.clear()
    text = (root / FILE).read_text(encoding="utf-8")
    assert all("stays at" in line for line in locked(root).lines)
    assert hub.asked == []
    assert (root / FILE).read_text(encoding="utf-8") == text


def test_what_moves_on_the_hub_stays_until_it_is_asked_to_move(root, hub):
    locked(root)
    hub.history["models/owner/model", REVISION] = MODEL
    hub.repositories["models/owner/model"] = {**MODEL, "vocab.txt": b"new\n"}
    hub.heads["models/owner/model"] = NEW
    assert "stays at" in locked(root, "encoder").lines[0]
    text = (root / FILE).read_text(encoding="utf-8")
    [line] = locked(root, "encoder", check=True).lines
    assert f"the hub has moved on to {NEW} (`replica lock --update encoder`)" in line
    assert (root / FILE).read_text(encoding="utf-8") == text
    before = load_project(root).models["encoder"]
    assert (retrieve_model(load_project(root), "encoder", root / "m") / "vocab.txt").read_bytes() == b"a\n"
    [line] = locked(root, "encoder", update=True).lines
    assert line == f"encoder: owner/model moved from {REVISION} to {NEW}, 3 files"
    after = load_project(root).models["encoder"]
    assert asset_fingerprint(after) != asset_fingerprint(before)  # so that Snakemake retrieves it again
    assert (retrieve_model(load_project(root), "encoder", root / "m") / "vocab.txt").read_bytes() == b"new\n"
    assert read_lock(root).datasets["reviews"].revision == REVISION


def test_digests_are_no_part_of_the_fingerprint(root):
    locked(root)
    known = load_project(root).datasets["reviews"]
    lock_now = read_lock(root)
    entry = Locked(repo="owner/data", revision=REVISION)
    write_lock(root, HubLock(datasets={"reviews": entry}, models=lock_now.models))
    assert asset_fingerprint(load_project(root).datasets["reviews"]) == asset_fingerprint(known)
    assert "stays at" in locked(root, "reviews").lines[0]
    assert read_lock(root) == lock_now  # digests that were unknown are asked for at the same commit


def test_a_file_that_was_changed_under_its_commit_is_found(root, hub):
    locked(root)
    changed = parquet("one", "2")
    hub.repositories["datasets/owner/data"] = {**DATA, "plain/train-00000-of-00001.parquet": changed}
    outcome = locked(root, check=True)
    [failed] = outcome.failed
    assert failed.startswith("reviews: hub: plain/train-00000-of-00001.parquet of owner/data")
    assert sha256(changed) in failed
    assert sha256(DATA["plain/train-00000-of-00001.parquet"]) in failed
    with pytest.raises(AssetError, match=r"is another file than config/hub.lock"):
        retrieve_dataset(load_project(root), "reviews", root / "d")


def test_a_commit_that_is_gone_is_found(root, hub):
    locked(root)
    hub.heads["datasets/owner/data"] = NEW
    [failed] = locked(root, check=True).failed
    assert f"owner/data at {REVISION} is not there" in failed


def test_a_repository_of_scripts_is_locked_at_its_converted_branch(root, hub):
    hub.repositories["datasets/owner/data"] = {"data.py": b"raise SystemExit"}
    hub.branches["datasets/owner/data@refs/convert/parquet"] = DATA
    hub.branches[f"datasets/owner/data@{CONVERTED}"] = DATA
    assert locked(root, "reviews").failed == []
    assert read_lock(root).datasets["reviews"].revision == CONVERTED


def test_what_cannot_be_locked_keeps_nothing_else_from_it(root, hub, capsys, monkeypatch):
    from replica.cli import main

    hub.repositories["models/owner/model"] = {"config.json": CONFIG, "pytorch_model.bin": b"\x80\x04"}
    monkeypatch.setattr(sys, "argv", ["replica", "--root", str(root), "lock"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    said = capsys.readouterr()
    locked_line, failed_line = said.out.splitlines()
    assert locked_line == f"reviews: owner/data is locked at {REVISION}, 2 files"
    assert failed_line.startswith("not as it should be: encoder: hub owner/model: refused, it has no model.safetensors")
    assert said.err == "error: 1 of 2 are not as locked, each named above with its remedy\n"
    assert set(read_lock(root).datasets) == {"reviews"}
    assert read_lock(root).models == {}
    hub.repositories["models/owner/model"] = {**MODEL, "modeling.py": b""}
    assert "has code of its own (modeling.py)" in locked(root).failed[0]


def test_without_a_network_nothing_is_written(root, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(AssetError, match=r"config/hub.lock.yaml is unchanged: no network to the hub for owner/data"):
        locked(root)
    assert not (root / FILE).exists()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(AssetError, match="is unchanged: HF_HUB_OFFLINE is set"):
        locked(root)


def test_names_are_checked_and_what_only_a_mirror_has_is_left_out(root, hub):
    with pytest.raises(ConfigError, match="no data set or model is named 'review'; did you mean 'reviews'"):
        locked(root, "review")
    with pytest.raises(ConfigError, match="'words' does not come from the hub"):
        locked(root, "words")
    change(root, "datasets", "reviews", on_hub=False)
    assert [line.split(":")[0] for line in locked(root).lines] == ["encoder"]
    assert not any("owner/data" in path for path in hub.asked)


def test_the_registry_names_no_commit_and_the_lock_no_stranger(root):
    locked(root)
    change(root, "models", "encoder", sources={"hub": {"repo": "owner/model", "revision": NEW}})
    with pytest.raises(
        ConfigError, match=r"models.encoder: sources.hub: commits and digests belong in config/hub.lock.yaml"
    ):
        load_project(root)
    change(root, "models", "encoder", sources={"hub": {"repo": "owner/other"}})
    assert load_project(root).models["encoder"].sources.hub.revision is None  # locked for another repository
    text = (root / FILE).read_text(encoding="utf-8")
    (root / FILE).write_text(text.replace("  encoder:", "  encodr:"), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"hub.lock.yaml: models.encodr: .* no such entry; did you mean 'encoder'"):
        load_project(root)
    (root / FILE).write_text(text.replace(REVISION, "main"), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"config/hub.lock.yaml: .*revision"):
        load_project(root)


def test_a_commit_that_looks_like_a_number_stays_text(tmp_path):
    (tmp_path / "config").mkdir()
    odd = {"a": "1234567890e" + "1" * 29, "b": "1" * 40, "c": "0" * 40}
    value = HubLock(datasets={name: Locked(repo="o/n", revision=commit) for name, commit in odd.items()})
    write_lock(tmp_path, value)
    assert read_lock(tmp_path) == value


def test_the_checked_in_lock_is_as_it_is_written_and_of_the_registries(tmp_path):
    (tmp_path / "config").mkdir()
    stored = read_lock(ROOT)
    write_lock(tmp_path, stored)
    assert (tmp_path / FILE).read_text(encoding="utf-8") == (ROOT / FILE).read_text(encoding="utf-8")
    project = load_project(ROOT)
    for registry in ("datasets", "models"):
        for name, entry in getattr(stored, registry).items():
            registered = getattr(project, registry)[name]
            assert registered.sources.hub.repo == entry.repo
            assert getattr(registered, "on_hub", True)
