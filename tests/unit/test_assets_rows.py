"""Canonical hashes and manifests: they hold content fast, and say what changed."""

import hashlib
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from replica import seals
from replica.assets import manifest
from replica.assets.rows import Rows, write_parquet
from replica.errors import AssetError
from tests.unit.assets_helpers import hash_rows


def test_hash_follows_its_rule():
    # the lines are written out by hand: keys sorted, no spaces, text unescaped, one line a row
    lines = '{"a":1,"b":"ö"}\n{"a":2,"b":null}\n'
    content = hash_rows([{"b": "ö", "a": 1}, {"b": None, "a": 2}])
    assert (content.rows, content.sha256) == (2, hashlib.sha256(lines.encode()).hexdigest())


def test_hash_takes_bytes_as_their_sha256_and_widens_float32(tmp_path):
    picture = b"\x89PNG"
    schema = pa.schema(
        {"image": pa.struct({"bytes": pa.binary(), "path": pa.string()}), "raw": pa.binary(), "score": pa.float32()}
    )
    rows = [{"image": {"bytes": picture, "path": "x.png"}, "raw": b"a", "score": 0.1}]
    found = write_parquet(Rows.of(rows, schema), tmp_path / "x.parquet")
    hashes = [hashlib.sha256(data).hexdigest() for data in (picture, b"a")]
    # 0.1 in float32 is 13421773 / 2**27
    line = f'{{"image":"{hashes[0]}","raw":"{hashes[1]}","score":{json.dumps(13421773 / 2**27)}}}\n'
    assert found.sha256 == hashlib.sha256(line.encode()).hexdigest()


def test_hash_does_not_depend_on_how_rows_are_cut_into_files(tmp_path):
    rows = [{"n": n} for n in range(25)]
    for name, part in (("all", rows), ("one", rows[:10]), ("two", rows[10:])):
        pq.write_table(pa.Table.from_pylist(part), tmp_path / f"{name}.parquet", row_group_size=7)
    whole = Rows.from_parquet([tmp_path / "all.parquet"], "test")
    parts = Rows.from_parquet([tmp_path / "one.parquet", tmp_path / "two.parquet"], "test")
    assert write_parquet(whole, tmp_path / "a.parquet") == write_parquet(parts, tmp_path / "b.parquet")
    assert write_parquet(whole, tmp_path / "a.parquet") == hash_rows(rows)
    assert hash_rows(rows) != hash_rows(rows[::-1])


def test_a_value_without_canonical_form_is_an_error():
    with pytest.raises(AssetError, match="row 1 has a value without a canonical form"):
        hash_rows([{"a": 1.0}, {"a": float("nan")}])


def test_truncated_and_corrupt_parquet_are_asset_errors(tmp_path):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.Table.from_pylist([{"text": "a" * 1000 + str(n)} for n in range(2000)]), path, compression="none")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(AssetError, match=r"mirror a/b: x.parquet is truncated or no Parquet"):
        Rows.from_parquet([path], "mirror a/b")
    broken = bytearray(whole)
    broken[4:4000] = b"\xff" * 3996
    path.write_bytes(bytes(broken))
    with pytest.raises(AssetError, match=r"x.parquet is corrupt"):
        write_parquet(Rows.from_parquet([path], "mirror a/b"), tmp_path / "out.parquet")


def test_parts_with_different_columns_are_an_error(tmp_path):
    for name, row in (("a", {"x": 1}), ("b", {"y": 1})):
        pq.write_table(pa.Table.from_pylist([row]), tmp_path / name)
    with pytest.raises(AssetError, match="different columns"):
        Rows.from_parquet([tmp_path / "a", tmp_path / "b"], "hub x/y")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.txt").write_text("one", encoding="utf-8")
    (tmp_path / "sub" / "b.txt").write_text("two", encoding="utf-8")
    manifest.write(tmp_path, name="x")
    return tmp_path


def test_manifest_verifies_and_is_the_same_twice(folder):
    first = (folder / "manifest.json").read_bytes()
    value = manifest.verify(folder)
    assert value["name"] == "x"
    assert value["files"]["sub/b.txt"] == {"bytes": 3, "sha256": hashlib.sha256(b"two").hexdigest()}
    manifest.write(folder, name="x")
    assert (folder / "manifest.json").read_bytes() == first


def test_verify_names_the_file_and_both_hashes(folder):
    (folder / "a.txt").write_text("One", encoding="utf-8")
    with pytest.raises(AssetError) as error:
        manifest.verify(folder)
    for part in ("a.txt", hashlib.sha256(b"one").hexdigest(), hashlib.sha256(b"One").hexdigest()):
        assert part in str(error.value)


def test_verify_refuses_missing_files_manifests_and_outside_names(folder, tmp_path):
    (folder / "sub" / "b.txt").unlink()
    with pytest.raises(AssetError, match=r"b\.txt: missing"):
        manifest.verify(folder)
    seals.write_sealed(folder / "manifest.json", {"files": {"../x": {"sha256": "0"}}})
    with pytest.raises(AssetError, match="outside the folder"):
        manifest.verify(folder)
    for content in ("{", "[]", '{"files": {"a": {}}}'):
        (folder / "manifest.json").write_text(content, encoding="utf-8")
        with pytest.raises(AssetError, match=r"manifest.json"):
            manifest.verify(folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(AssetError, match="no manifest"):
        manifest.verify(folder)
