"""Damage where something is published: each kind is named, and nothing of it leaves the machine."""

from __future__ import annotations

import os

import pytest

from replica.errors import AssetError, ReplicaError
from replica.sharing import index
from replica.sharing.publish import names, publish

from .published_project import git, planned, score_again

pytestmark = pytest.mark.usefixtures("somebody")


def _run(folder, number=0):
    return sorted((folder / "results" / "laptop" / "runs").glob("adapt-*/seed0"))[number]


def _put_up(folder, *named, remote=None):
    project, plan = planned(folder)
    return publish(project, plan, *names(project, plan, named), remote)


def _flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    os.chmod(path, 0o644)
    path.write_bytes(data)


def _nothing_published(folder, said):
    head = git(folder, "rev-parse", "HEAD")
    with pytest.raises(ReplicaError, match=said) as caught:
        _put_up(folder)
    assert "\n" not in str(caught.value)
    assert git(folder, "rev-parse", "HEAD") == head and git(folder, "status", "--porcelain") == ""
    assert not (folder / index.PATH).exists() and not (folder.parent / "remote").exists()


def test_flipped_byte_in_a_checkpoint(project):
    path = _run(project) / "model.safetensors"
    _flip(path)
    _nothing_published(
        project, rf"{path.relative_to(project)}: sha256 is [0-9a-f]{{64}}, manifest.json says [0-9a-f]{{64}}"
    )


def test_truncated_parquet(project):
    for path in (project / "assets/datasets/words/train.parquet", _run(project) / "predictions.parquet"):
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])
    _nothing_published(
        project, r"words/train.parquet: truncated or no parquet file .*\(1 more: .*predictions.parquet: truncated"
    )


def test_missing_manifest(project):
    (_run(project) / "manifest.json").unlink()
    _nothing_published(
        project, f"{_run(project).relative_to(project)}/manifest.json: missing, though other files are there"
    )


def test_swapped_weights_of_two_runs(project):
    first, second = _run(project, 0) / "model.safetensors", _run(project, 1) / "model.safetensors"
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)
    _nothing_published(
        project, rf"{first.relative_to(project)}: sha256 is .*1 more: {second.relative_to(project)}: sha256 is"
    )


def test_swapped_folders_and_metrics_of_two_runs(project):
    first, second = _run(project, 0), _run(project, 1)
    metrics = (first / "metrics.json").read_bytes()
    (first / "metrics.json").write_bytes((second / "metrics.json").read_bytes())
    with pytest.raises(
        AssetError, match=f"{first.parent.name}/seed0/metrics.json: is of run {second.parent.name} seed 0"
    ):
        _put_up(project)
    (first / "metrics.json").write_bytes(metrics)
    os.rename(first, first.with_name("aside"))
    os.rename(second, first)
    os.rename(first.with_name("aside"), second)
    _nothing_published(
        project, f"{first.parent.name}/seed0/manifest.json: is of run {second.parent.name} seed 0.*exchanged"
    )


def test_run_made_from_another_teacher_than_stands_beside_it(project):
    [teacher] = (project / "results/laptop/runs").glob("teacher-*/seed0")
    score_again(teacher / "manifest.json", finished="2026-02-02T00:00:00Z")
    _nothing_published(
        project, "was made from a teacher whose manifest has sha256 [0-9a-f]{64}, but .* has [0-9a-f]{64}"
    )


def test_archive_in_the_cache_changed_through_a_hard_link(again):
    run = _run(again)
    path = again / f"published/runs/laptop/{run.parent.name}-seed0.tar"
    [cached] = [
        item for item in (again / ".dvc/cache").rglob("*") if item.is_file() and item.read_bytes() == path.read_bytes()
    ]
    path.unlink()
    os.link(cached, path)
    _flip(path)
    with pytest.raises(
        AssetError, match=r"DVC's copy of published/runs/.* has sha256 [0-9a-f]{64}, published was .* hard link"
    ):
        _put_up(again)
    cached.unlink()
    done = _put_up(again)
    assert done.new == [f"runs/laptop/{run.parent.name}-seed0"] and done.commit is None, (
        "packed again, to the same bytes"
    )


def test_results_older_than_what_they_were_made_from_are_left_out(project):
    from snakemake.persistence import MetadataRecord

    from replica.jobs.snakemake_records import Records

    metrics = f"{_run(project).relative_to(project)}/metrics.json"
    record = MetadataRecord(rule="compare", record_format_version=6, input_checksums={metrics: "sha256:" + "0" * 64})
    Records(project).persistence._write_record("results/laptop/papers/one/claims.json", record)
    done = _put_up(project)
    assert done.left_out == {
        "papers/laptop/one": f"results/laptop/papers/one was made before {metrics} changed; run snakemake first"
    }


def test_a_manifest_that_is_no_json_is_named(project):
    path = _run(project) / "manifest.json"
    path.write_text("{", encoding="utf-8")
    _nothing_published(project, rf"{path.relative_to(project)}: corrupt, not JSON")
