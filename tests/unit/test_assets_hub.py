"""The hub source against a hub on the loopback interface: pinned revisions, safetensors only, nothing run, clear errors."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from replica.assets import hub as source
from replica.assets import manifest, retrieve_dataset, retrieve_model
from replica.errors import AssetError
from tests.unit.assets_helpers import REVISION, dataset, hash_rows, left_in, project, safetensors, sha256
from tests.unit.assets_hub_server import CONVERTED, blob_id

ROWS = [{"text": f"row {number}", "label": number % 2} for number in range(50)]
CONFIG = json.dumps({"model_type": "bert", "hidden_size": 4}).encode()
MODEL = {"config.json": CONFIG, "model.safetensors": safetensors(b"\1" * 4096), "vocab.txt": b"a\nb\n"}


def parquet(rows):
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def get_model(tmp_path, files=None, revision=REVISION, locked=None):
    entry = {"title": "t", "architecture": "bert", "config": {"hidden_size": 4}}
    entry["sources"] = {
        "hub": {"repo": "owner/model", "revision": revision, "files": files or [], "locked": locked or {}}
    }
    return retrieve_model(project(models={"m": entry}, root=tmp_path), "m", tmp_path / "out" / "m")


def get_dataset(tmp_path, pins, config="plain"):
    sources = {"hub": {"repo": "owner/data", "revision": REVISION, "config": config}}
    return retrieve_dataset(project({"d": dataset(sources, pins)}, root=tmp_path), "d", tmp_path / "out" / "d")


def test_model_comes_at_its_revision_with_known_files_only(hub, tmp_path):
    hub.repositories["models/owner/model"] = {**MODEL, "pytorch_model.bin": b"pickle", "README.md": b"x"}
    folder = get_model(tmp_path)
    value = manifest.verify(folder)
    assert set(value["files"]) == set(MODEL)
    assert value["source"] == {"kind": "hub", "repo": "owner/model", "revision": REVISION}
    assert all((folder / name).read_bytes() == data for name, data in MODEL.items())
    assert all("main" not in path for path in hub.asked)
    assert left_in(tmp_path / "out") == ["m"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"config.json": CONFIG, "pytorch_model.bin": b"\x80\x04"},
            r"no model.safetensors \(weights: pytorch_model.bin\)",
        ),
        ({**MODEL, "modeling_own.py": b"print()"}, r"has code of its own \(modeling_own.py\), which is never run"),
        ({**MODEL, "config.json": CONFIG[:-1] + b', "auto_map": {}}'}, "code of its own"),
    ],
    ids=["pickle", "code", "auto_map"],
)
def test_pickles_and_code_are_refused(hub, tmp_path, files, message):
    hub.repositories["models/owner/model"] = files
    with pytest.raises(AssetError, match=message):
        get_model(tmp_path)
    assert left_in(tmp_path / "out") == []


def test_named_files_may_not_be_pickles_and_must_be_there(hub, tmp_path):
    hub.repositories["models/owner/model"] = {**MODEL, "pytorch_model.bin": b"\x80\x04"}
    with pytest.raises(AssetError, match=r"pytorch_model.bin may hold pickled code"):
        get_model(tmp_path, ["config.json", "pytorch_model.bin"])
    with pytest.raises(AssetError, match=r"has no tokenizer.json"):
        get_model(tmp_path, ["config.json", "tokenizer.json"])


def test_another_file_than_the_hub_lists_names_both_hashes(hub, tmp_path):
    hub.repositories["models/owner/model"] = MODEL
    hub.sent["model.safetensors"] = safetensors(b"\2" * 4096)
    with pytest.raises(AssetError, match=r"arrived with sha256 [0-9a-f]{64}, the hub has [0-9a-f]{64}"):
        get_model(tmp_path)
    assert left_in(tmp_path / "out") == []


@pytest.mark.parametrize("how", ["cut", "short"])
def test_a_truncated_download_says_so_and_leaves_nothing(hub, tmp_path, monkeypatch, how):
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)  # between its own tries
    hub.repositories["models/owner/model"] = MODEL
    getattr(hub, how).add("model.safetensors")
    with pytest.raises(AssetError, match=r"owner/model at 0123.* was truncated on its way .*(2088|4176)") as error:
        get_model(tmp_path)
    assert "\n" not in str(error.value)
    assert left_in(tmp_path / "out") == []


def test_what_is_not_there_says_so(hub, tmp_path):
    with pytest.raises(AssetError, match=r"owner/model at .* is not there .*; correct the registry"):
        get_model(tmp_path)


def test_a_hub_that_is_down_or_away_is_one_line(hub, tmp_path, monkeypatch):
    hub.status = 403
    with pytest.raises(AssetError, match=r"no source has it: .*hub: the hub does not give owner/model") as error:
        get_model(tmp_path)
    assert "\n" not in str(error.value)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(AssetError, match="hub: no network to the hub for owner/model"):
        get_model(tmp_path)


def test_no_revision_and_offline_ask_nothing(hub, tmp_path, monkeypatch):
    with pytest.raises(AssetError, match="owner/model has no pinned revision"):
        get_model(tmp_path, revision=None)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(AssetError, match="HF_HUB_OFFLINE is set"):
        get_model(tmp_path)
    assert hub.asked == []


def test_data_set_of_several_files_is_one_split_in_order(hub, tmp_path):
    hub.repositories["datasets/owner/data"] = {
        "README.md": b"# no front matter",
        "plain/train-00000-of-00002.parquet": parquet(ROWS[:30]),
        "plain/train-00001-of-00002.parquet": parquet(ROWS[30:]),
        "other/train-00000-of-00001.parquet": parquet(ROWS[:1]),
        "data.py": b"raise SystemExit",
    }
    content = hash_rows(ROWS)
    folder = get_dataset(tmp_path, {"train": {"rows": 50, "sha256": content.sha256}})
    assert pq.read_table(folder / "train.parquet").to_pylist() == ROWS
    assert not any("other/" in path or path.endswith(".py") for path in hub.asked)


def test_the_converted_branch_is_read_by_its_names(hub, tmp_path):
    hub.repositories["datasets/owner/data"] = {"plain/train/0000.parquet": parquet(ROWS)}
    assert manifest.verify(get_dataset(tmp_path, {"train": None}))["splits"]["train"]["rows"] == 50


def test_other_rows_and_scripts_alone_are_errors(hub, tmp_path):
    hub.repositories["datasets/owner/data"] = {"plain/train-00000-of-00001.parquet": parquet(ROWS)}
    with pytest.raises(AssetError) as error:
        get_dataset(tmp_path, {"train": {"rows": 50, "sha256": "0" * 64}})
    for part in ("from hub", hash_rows(ROWS).sha256, "0" * 64):
        assert part in str(error.value)
    hub.repositories["datasets/owner/data"] = {"data.py": b"x"}
    with pytest.raises(AssetError, match=r"no Parquet files of split 'train'.*a loading script is never run"):
        get_dataset(tmp_path, {"train": None})


def test_revision_to_pin_is_of_main_or_of_the_converted_branch(hub):
    hub.repositories["datasets/owner/data"] = {"plain/train-0.parquet": parquet(ROWS)}
    assert source.resolve_revision("owner/data", "dataset") == REVISION
    hub.repositories["datasets/owner/data"] = {"data.py": b"x"}
    assert source.resolve_revision("owner/data", "dataset") == CONVERTED


OLD, NEW = REVISION, "f" * 40


def test_a_moved_branch_changes_nothing_and_a_commit_that_is_gone_says_so(hub, tmp_path):
    hub.repositories["models/owner/model"] = {**MODEL, "vocab.txt": b"other\n"}
    hub.heads["models/owner/model"] = NEW
    hub.history["models/owner/model", OLD] = MODEL
    folder = get_model(tmp_path)
    assert (folder / "vocab.txt").read_bytes() == MODEL["vocab.txt"]
    assert manifest.read(folder)["source"]["revision"] == OLD
    del hub.history["models/owner/model", OLD]
    with pytest.raises(
        AssetError, match=rf"owner/model at {OLD} is not there .*lock it again \(`replica lock --update`\)"
    ):
        get_model(tmp_path)
    assert manifest.verify(folder)["source"]["revision"] == OLD


def test_another_commit_than_the_one_asked_for_is_refused(hub, tmp_path):
    hub.repositories["models/owner/model"] = MODEL
    hub.says = NEW
    with pytest.raises(AssetError, match=rf"wrong revision: owner/model was asked for at {OLD} and came at {NEW}"):
        get_model(tmp_path)
    assert left_in(tmp_path / "out") == []
    assert hub.started == []


def test_a_file_that_changed_under_its_commit_names_both_digests(hub, tmp_path):
    hub.repositories["models/owner/model"] = MODEL
    locked = {"model.safetensors": sha256(MODEL["model.safetensors"]), "vocab.txt": blob_id(MODEL["vocab.txt"])}
    get_model(tmp_path, locked=locked)
    for name, data, found in (
        ("vocab.txt", b"other\n", blob_id(b"other\n")),
        ("model.safetensors", safetensors(b"\3" * 4096), sha256(safetensors(b"\3" * 4096))),
    ):
        hub.repositories["models/owner/model"] = {**MODEL, name: data}
        with pytest.raises(
            AssetError, match=f"{name} of owner/model at {OLD} is another file .* {found}, locked {locked[name]}"
        ):
            get_model(tmp_path, locked=locked)
    hub.repositories["models/owner/model"] = {k: v for k, v in MODEL.items() if k != "vocab.txt"}
    with pytest.raises(AssetError, match=r"has no vocab.txt, which config/hub.lock.yaml remembers"):
        get_model(tmp_path, locked=locked)


def test_a_pickle_under_the_name_of_safetensors_is_refused(hub, tmp_path):
    import pickle
    import zipfile

    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"weight": 1}))
    for data in (pickle.dumps({"weight": [0.0] * 100}), zipped.getvalue()):
        hub.repositories["models/owner/model"] = {**MODEL, "model.safetensors": data}
        with pytest.raises(
            AssetError, match=r"refused, model.safetensors is a pickle.*in place of safetensors; .* never opened"
        ):
            get_model(tmp_path)
        assert left_in(tmp_path / "out") == []


def test_a_truncated_parquet_file_is_named_and_nothing_is_kept(hub, tmp_path):
    data = parquet(ROWS)
    hub.repositories["datasets/owner/data"] = {"plain/train-00000-of-00001.parquet": data[:-30]}
    with pytest.raises(AssetError, match=r"train-00000-of-00001.parquet is truncated or no Parquet file"):
        get_dataset(tmp_path, {"train": None})
    assert left_in(tmp_path / "out") == []
    hub.repositories["datasets/owner/data"] = {"plain/train-00000-of-00002.parquet": data}
    with pytest.raises(AssetError, match=r"split 'train' is not whole at .*: it has 1 of 2 parts"):
        get_dataset(tmp_path, {"train": None})


def test_content_that_only_a_mirror_has_is_not_asked_of_the_hub(hub, tmp_path):
    entry = dataset({"hub": {"repo": "owner/data", "revision": REVISION}}, {"train": None}, on_hub=False)
    with pytest.raises(AssetError, match=r"hub: the hub does not have this content, a mirror alone does"):
        retrieve_dataset(project({"d": entry}, root=tmp_path), "d", tmp_path / "out" / "d")
    assert hub.asked == []
