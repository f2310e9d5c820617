"""Adopting: everything is verified before anything is touched; what is damaged on the way is named and enters nothing."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tarfile

import pytest

from replica.errors import AssetError, ReplicaError
from replica.files import read_json, sha256_file, write_text
from replica.sharing import index, store
from replica.sharing.adopt import adopt
from replica.sharing.archive import PUBLISHED_TIME
from replica.sharing.publish import publish

from .published_project import clone, git, planned, score_again

pytestmark = pytest.mark.usefixtures("somebody")


@pytest.fixture
def fresh(published, tmp_path):
    """A clone with nothing in it but what git has, beside a copy of the remote."""
    shutil.copytree(published.parent / "remote", tmp_path / "remote")
    return clone(published, tmp_path / "clone")


def _take(folder, *papers, **options):
    return adopt(*planned(folder), list(papers), **options)


def _files(folder):
    return {
        path.relative_to(folder).as_posix(): path
        for place in ("results", "assets")
        for path in sorted((folder / place).rglob("*"))
        if path.is_file()
    }


def _object(folder, name):
    """The remote's file that holds an artifact's archive."""
    sha256 = index.read(folder)[name].sha256
    [found] = [path for path in (folder.parent / "remote").rglob("*") if path.is_file() and sha256_file(path) == sha256]
    os.chmod(found, 0o644)
    return found


def _runs(folder):
    return sorted(name for name in index.read(folder) if name.startswith("runs/laptop/adapt"))


def test_everything_comes_back_byte_for_byte(published, fresh):
    done = _take(fresh)
    assert (len(done.taken), done.here, done.unpublished) == (20, [], [])
    there, here = _files(published), _files(fresh)
    assert {name: sha256_file(path) for name, path in here.items()} == {
        name: sha256_file(path) for name, path in there.items()
    }
    assert git(fresh, "status", "--porcelain") == ""


def test_no_adopted_file_is_newer_than_another(fresh):
    _take(fresh, "one")
    _take(fresh)
    assert {path.stat().st_mtime for path in _files(fresh).values()} == {PUBLISHED_TIME}


def test_one_paper_leaves_the_others_alone(fresh):
    _take(fresh, "two")
    before = {name: (path.stat().st_mtime_ns, path.stat().st_ino) for name, path in _files(fresh).items()}
    assert not any("papers/one" in name or "structural/one" in name for name in before)
    cached = len([path for path in (fresh / ".dvc" / "cache").rglob("*") if path.is_file()])
    assert cached == len(index.read(fresh)) - len(_runs(fresh)) // 2 - 3 - 2, (
        "the other's runs and results were not even fetched"
    )
    done = _take(fresh, "one")
    assert "papers/laptop/one" in done.taken and not any("two" in name for name in done.taken)
    assert all(
        (path.stat().st_mtime_ns, path.stat().st_ino) == before[name]
        for name, path in _files(fresh).items()
        if name in before
    )


def test_adopting_twice_touches_nothing(fresh):
    _take(fresh)
    before = {name: path.stat().st_ctime_ns for name, path in _files(fresh).items()}
    done = _take(fresh)
    assert done.taken == [] and len(done.here) == 20
    assert {name: path.stat().st_ctime_ns for name, path in _files(fresh).items()} == before


def test_adopted_artifacts_can_be_published_on_and_are_no_news(fresh):
    _take(fresh)
    done = publish(*planned(fresh), [], [])
    assert (done.new, len(done.same), done.commit) == ([], 20, None)


def test_own_file_that_differs_is_named_with_both_hashes_and_stays(fresh):
    name = _runs(fresh)[0]
    entry = index.read(fresh)[name]
    write_text(fresh / entry.folder / "metrics.json", "{}\n")
    mine = sha256_file(fresh / entry.folder / "metrics.json")
    with pytest.raises(
        AssetError, match=rf"{entry.folder}/metrics.json: sha256 is {mine}, published is {entry.files['metrics.json']}"
    ):
        _take(fresh)
    assert list(_files(fresh)) == [f"{entry.folder}/metrics.json"]
    assert _take(fresh, replace=True).taken
    assert sha256_file(fresh / entry.folder / "metrics.json") == entry.files["metrics.json"]


@pytest.mark.parametrize("linked", ["assets/datasets/words/train.parquet", "results/laptop/papers/one/tables"])
def test_nothing_is_written_or_looked_at_through_a_link(fresh, linked):
    (fresh.parent / "elsewhere").mkdir()
    (fresh / linked).parent.mkdir(parents=True)
    (fresh / linked).symlink_to(fresh.parent / "elsewhere")
    with pytest.raises(ReplicaError, match=rf"{linked}.*leads out of .* or through a link"):
        _take(fresh)
    assert list(_files(fresh)) == [] and not list((fresh.parent / "elsewhere").iterdir())


def test_what_nobody_published_is_said(fresh):
    with pytest.raises(AssetError, match="nothing of 'one' is published at scale paper"):
        adopt(*planned(fresh, "paper"), ["one"])
    (fresh / index.PATH).unlink()
    with pytest.raises(AssetError, match="nothing of 'one' is published at scale laptop"):
        _take(fresh)


def test_results_that_belong_to_other_runs_are_made_older_than_those(published, fresh):
    """A table whose inputs were published anew since is not taken for current: Snakemake finds it older and makes it again."""
    from snakemake.persistence import MetadataRecord

    from replica.jobs.snakemake_records import Records

    [run] = [name for name in _runs(published) if name.endswith("seed0")][:1]
    folder = index.read(published)[run].folder
    source = shutil.copytree(published, fresh.parent / "source")
    record = MetadataRecord(
        rule="compare", record_format_version=6, input=[f"{folder}/metrics.json"],
        input_checksums={f"{folder}/metrics.json": "sha256:" + index.read(published)[run].files["metrics.json"]},
    )  # fmt: skip
    claims = "results/laptop/papers/one/claims.json"
    Records(source).persistence._write_record(claims, record)
    publish(*planned(source), ["one"], [])
    score_again(source / folder / "metrics.json", note="scored again")
    done = publish(*planned(source), ["one"], [])
    assert done.new == [run] and list(done.left_out) == ["papers/laptop/one"]
    other = clone(source, fresh.parent / "other")
    _take(other)
    assert (other / claims).stat().st_mtime == PUBLISHED_TIME - 1
    assert (other / folder / "metrics.json").stat().st_mtime == PUBLISHED_TIME
    assert Records(other).persistence._read_record(claims).input == [f"{folder}/metrics.json"]
    shutil.rmtree(other / folder)
    _take(other)
    assert (other / claims).stat().st_mtime == PUBLISHED_TIME - 1, "nor after another call"


# damage on the way: each is detected by name, and nothing enters the checkout


def _refused(folder, said, error=ReplicaError):
    with pytest.raises(error, match=said) as caught:
        _take(folder)
    assert "\n" not in str(caught.value)
    assert not _files(folder), "nothing was touched"
    assert not (folder / "results" / ".adopting").exists()


def _flip(path):
    data = bytearray(path.read_bytes())
    data[700] ^= 1
    _written(path, bytes(data))


def _written(path, data):
    """Write as something that DVC trusts: it looks into files of a cache only where they may be written to."""
    os.chmod(path, 0o644)
    path.write_bytes(data)
    os.chmod(path, 0o444)


def test_flipped_byte_on_the_remote_and_its_repair(published, fresh):
    name = _runs(fresh)[0]
    _flip(_object(fresh, name))
    _refused(
        fresh,
        rf"published/{name}.tar: sha256 is [0-9a-f]{{64}}, published was {index.read(fresh)[name].sha256}: the remote 'lab'",
    )
    shutil.rmtree(fresh.parent / "remote")
    shutil.copytree(published.parent / "remote", fresh.parent / "remote")
    assert len(_take(fresh).taken) == 20, "the damaged copy is not kept"


def test_truncated_archive_on_the_remote(fresh):
    name = _runs(fresh)[1]
    path = _object(fresh, name)
    _written(path, path.read_bytes()[:2000])
    _refused(fresh, rf"published/{name}.tar: sha256 is .* half of one .*; nothing was touched")


def test_remote_half_pushed(fresh):
    first, second = _runs(fresh)[:2]
    _object(fresh, first).unlink()
    _object(fresh, second).unlink()
    _refused(
        fresh,
        rf"remote 'lab' .*: does not hold published/{first}.tar, published/{second}.tar as published: .* `replica publish` again",
    )


def test_remote_that_is_gone(fresh):
    shutil.rmtree(fresh.parent / "remote")
    _refused(fresh, r"remote 'lab' \(.*\): does not hold published/datasets/words.tar.* and 17 more")


def test_swapped_archives_of_two_runs(fresh):
    first, second = (_object(fresh, name) for name in _runs(fresh)[:2])
    data = first.read_bytes()
    _written(first, second.read_bytes())
    _written(second, data)
    _refused(fresh, rf"published/{_runs(fresh)[0]}.tar: sha256 is")


def test_copy_in_the_cache_changed_through_a_hard_link_is_fetched_again(fresh):
    _take(fresh)
    name = _runs(fresh)[0]
    sha256 = index.read(fresh)[name].sha256
    [cached] = [path for path in (fresh / ".dvc/cache").rglob("*") if path.is_file() and sha256_file(path) == sha256]
    os.link(cached, fresh / "link")
    _flip(fresh / "link")
    assert sha256_file(cached) != sha256
    shutil.rmtree(fresh / "results")
    done = _take(fresh)
    assert done.renewed == [f"published/{name}.tar"] and sha256_file(cached) == sha256
    shutil.rmtree(fresh / "results")
    shutil.rmtree(fresh / "assets")
    _flip(cached)
    _object(fresh, name).unlink()
    _refused(fresh, rf"does not hold published/{name}.tar")


def _repacked(folder, name, change):
    """Put another archive in an artifact's place everywhere: remote, dvc.lock and the archive's hash in the index, as a thief might."""
    entries, path = index.read(folder), _object(folder, name)
    old = hashlib.md5(path.read_bytes()).hexdigest()
    with tarfile.open(path) as tar:
        members = [(member, tar.extractfile(member).read()) for member in tar]
    path.unlink()
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", encoding="utf-8") as tar:
        for member, content in change(members):
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    new = hashlib.md5(data.getvalue()).hexdigest()
    target = folder.parent / "remote" / "files" / "md5" / new[:2] / new[2:]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data.getvalue())
    lock = (folder / "dvc.lock").read_text(encoding="utf-8").replace(old, new)
    write_text(folder / "dvc.lock", lock)
    facts = {
        **vars(entries[name]),
        "sha256": hashlib.sha256(data.getvalue()).hexdigest(),
        "bytes": len(data.getvalue()),
    }
    index.write(folder, {**entries, name: index.Entry(**facts)})


def test_archive_member_that_climbs_out(fresh):
    def climb(members):
        return [*members, (tarfile.TarInfo("../../../../../../escaped.json"), b"{}")]

    name = _runs(fresh)[0]
    _repacked(fresh, name, climb)
    _refused(
        fresh, r"member '../../../../../../escaped.json' climbs out of its folder; nothing was taken from the archive"
    )
    assert not list(fresh.parent.rglob("escaped.json"))


def test_archive_without_its_manifest(fresh):
    _repacked(fresh, _runs(fresh)[0], lambda members: [item for item in members if item[0].name != "manifest.json"])
    _refused(fresh, "lacks 'manifest.json', which was published with it")


def test_archive_with_another_file_of_the_same_name(fresh):
    def other(members):
        return [
            (member, content.replace(b"0.5", b"0.9") if member.name == "metrics.json" else content)
            for member, content in members
        ]

    _repacked(fresh, _runs(fresh)[0], other)
    _refused(
        fresh, "'metrics.json' has sha256 [0-9a-f]{64}, published was [0-9a-f]{64}: the archive changed or is corrupt"
    )


def test_index_whose_weights_contradict_the_runs_own_manifest(fresh):
    """Index and archive agree with each other; the manifest in it tells of other weights."""
    name = _runs(fresh)[0]
    entries = index.read(fresh)
    other = b"\x02\x00\x00\x00\x00\x00\x00\x00{}"

    def weights(members):
        return [(member, other if member.name == "model.safetensors" else content) for member, content in members]

    _repacked(fresh, name, weights)
    files = {**entries[name].files, "model.safetensors": hashlib.sha256(other).hexdigest()}
    index.write(fresh, {**index.read(fresh), name: index.Entry(**{**vars(index.read(fresh)[name]), "files": files})})
    _refused(
        fresh,
        rf"{name}.tar/model.safetensors: sha256 is {files['model.safetensors']}, manifest.json says [0-9a-f]{{64}}",
    )


def test_folder_of_the_index_that_is_not_the_artifacts(fresh):
    name = _runs(fresh)[0]
    entries = index.read(fresh)
    index.write(fresh, {**entries, name: index.Entry(**{**vars(entries[name]), "folder": "../outside"})})
    _refused(fresh, rf"{name} claims the folder ../outside, its place is results/laptop/runs")


def test_index_without_its_lock(fresh):
    shutil.copy(fresh / "dvc.lock", fresh.parent / "kept.lock")
    (fresh / "dvc.lock").unlink()
    _refused(fresh, "but dvc.lock does not pin published/datasets/words.tar: half a commit")


def test_leftovers_of_a_killed_call_are_cleared(fresh):
    write_text(fresh / "results" / ".adopting" / "old" / "half.tar", "x")
    _take(fresh)
    assert not (fresh / "results" / ".adopting").exists()


def test_killed_between_two_files_the_next_call_completes(fresh, monkeypatch):
    import replica.sharing.adopt as module

    moved = []

    def some(source, target):
        if len(moved) == 7:
            raise KeyboardInterrupt
        moved.append(target)
        os.replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(module, "_move", some)
        with pytest.raises(KeyboardInterrupt):
            _take(fresh)
    for folder in {path.parent for path in moved}:
        whole = (folder / "manifest.json").exists()
        names = set(read_json(folder / "manifest.json").get("files", {})) if whole else set()
        assert all((folder / name).exists() for name in names), "a folder with a manifest is whole"
    from replica.jobs.snakemake_records import Records

    last = moved[-1].relative_to(fresh).as_posix()
    assert Records(fresh).persistence._filter_incomplete_keys([last]), "Snakemake takes half an artifact for unfinished"
    assert _take(fresh).taken
    assert len(_take(fresh).here) == 20
    assert not Records(fresh).persistence._filter_incomplete_keys([last])
    assert store.STAGE in (fresh / "dvc.yaml").read_text(encoding="utf-8")


def test_adopting_needs_no_git_program(fresh, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert len(_take(fresh, "one").taken) > 0
