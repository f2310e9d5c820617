"""What sharing is built of: archives that are the same everywhere and cannot climb out, careful checks, secrets kept."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pickle
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from replica.errors import AssetError, ConfigError
from replica.files import sha256_file, write_json
from replica.jobs.snakemake_records import Records, other_input
from replica.sharing import archive, checkout, checks, index, remotes
from replica.sharing.artifacts import Artifact, artifacts_of

from .small_project import paper, write_project

RUN = Artifact(
    id="runs/smoke/adapt-x-seed0", kind="run", folder="results/smoke/runs/adapt-x/seed0", type="model", desc=""
)


def _folder(tmp_path, **contents):
    folder = tmp_path / "folder"
    for name, text in {"b.json": "{}", "a/c.json": "[1]", **contents}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def test_archive_depends_on_names_and_contents_alone(tmp_path):
    first = _folder(tmp_path)
    other = tmp_path / "other"
    (other / "a").mkdir(parents=True)
    for name in ("a/c.json", "b.json"):
        (other / name).write_bytes((first / name).read_bytes())
        os.chmod(other / name, 0o600)
        os.utime(other / name, (1, 1))
    archive.pack(first, ["b.json", "a/c.json"], {}, tmp_path / "1.tar")
    archive.pack(other, ["a/c.json", "b.json"], {}, tmp_path / "2.tar")
    assert (tmp_path / "1.tar").read_bytes() == (tmp_path / "2.tar").read_bytes()
    with tarfile.open(tmp_path / "1.tar") as tar:
        assert {(m.mtime, m.uid, m.uname, m.mode) for m in tar} == {(archive.PUBLISHED_TIME, 0, "", 0o644)}


def test_unpacked_files_are_those_packed(tmp_path):
    files = archive.pack(_folder(tmp_path), ["b.json", "a/c.json"], {".made.json": b"{}"}, tmp_path / "1.tar")
    archive.unpack(tmp_path / "1.tar", files, tmp_path / "out")
    assert {name: sha256_file(tmp_path / "out" / name) for name in files} == files
    assert sorted(files) == [".made.json", "a/c.json", "b.json"]


def _tar(path, *members):
    with tarfile.open(path, "w") as tar:
        for name, kind, link in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.size = kind, link, 2 if kind == tarfile.REGTYPE else 0
            tar.addfile(member, io.BytesIO(b"{}"))
    return path


@pytest.mark.parametrize(
    "member, said",
    [
        (("../outside.json", tarfile.REGTYPE, ""), "member '../outside.json' climbs out of its folder"),
        (("/tmp/outside.json", tarfile.REGTYPE, ""), "member '/tmp/outside.json' climbs out of its folder"),
        (("a/../../outside.json", tarfile.REGTYPE, ""), "climbs out of its folder"),
        (("b.json", tarfile.SYMTYPE, "/etc/passwd"), "member 'b.json' is no plain file"),
        (("b.json", tarfile.LNKTYPE, "a.json"), "member 'b.json' is no plain file"),
        (("other.json", tarfile.REGTYPE, ""), "member 'other.json' is not one that was published"),
        (("a.json", tarfile.REGTYPE, ""), "member 'a.json' comes twice"),
    ],
)
def test_member_that_does_not_belong_stops_everything_before_a_byte_is_written(tmp_path, member, said):
    expected = {"a.json": "0" * 64, "b.json": "0" * 64}
    path = _tar(tmp_path / "x.tar", ("a.json", tarfile.REGTYPE, ""), member)
    with pytest.raises(AssetError, match=said.replace("(", r"\(")):
        archive.unpack(path, expected, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not (tmp_path / "outside.json").exists()


def test_missing_changed_and_truncated_members_are_named(tmp_path):
    folder = _folder(tmp_path, **{"big.json": "x" * 20000})
    files = archive.pack(folder, ["b.json", "big.json"], {}, tmp_path / "1.tar")
    with pytest.raises(AssetError, match=r"1.tar: lacks 'manifest.json'"):
        archive.unpack(tmp_path / "1.tar", {**files, "manifest.json": "0" * 64}, tmp_path / "out")
    with pytest.raises(AssetError, match=rf"'b.json' has sha256 {files['b.json']}, published was {'0' * 64}"):
        archive.unpack(tmp_path / "1.tar", {**files, "b.json": "0" * 64}, tmp_path / "out")
    data = (tmp_path / "1.tar").read_bytes()
    (tmp_path / "1.tar").write_bytes(data[:5000])
    with pytest.raises(AssetError, match=r"1.tar: truncated or no archive"):
        archive.unpack(tmp_path / "1.tar", files, tmp_path / "out")


def test_pickle_under_any_name_is_refused(tmp_path):
    folder = _folder(tmp_path)
    for name, said in (
        ("model.safetensors", "model.safetensors: holds a pickle"),
        ("model.parquet", "model.parquet: holds a pickle"),
        ("pytorch_model.bin", ".bin files may run code when loaded"),
    ):
        (folder / name).write_bytes(pickle.dumps({"weight": [1.0]}, protocol=4))
        artifact = replace(RUN, kind="paper", needs=())
        with pytest.raises(AssetError, match=said):
            checks.check(artifact, folder, {name: "0" * 64}, "somewhere")


def test_safetensors_whose_header_looks_like_a_pickle_is_taken(tmp_path):
    header = b"{}".ljust(0x0280)  # its length in little-endian bytes begins with 80 02, as a pickle does
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    checks.check(replace(RUN, kind="paper", needs=()), tmp_path, {"model.safetensors": "0" * 64})


def test_index_of_another_format_or_shape_is_refused(tmp_path):
    assert index.read(tmp_path) == {}
    write_json(tmp_path / index.PATH, {"format": 99, "artifacts": {}})
    with pytest.raises(AssetError, match="has format 99"):
        index.read(tmp_path)
    write_json(tmp_path / index.PATH, {"format": 1, "artifacts": {"x": {"kind": "run"}}})
    with pytest.raises(AssetError, match="an entry is not one of an artifact"):
        index.read(tmp_path)


def test_a_runs_artifacts_hold_everything_it_was_made_from(tmp_path):
    from replica.config import load_project
    from replica.plan import build_plan

    project = load_project(write_project(tmp_path, paper()), quick=False)
    plan = build_plan(project, "laptop")
    student = plan.named["one"]["laptop"]["student"]
    found = artifacts_of(project, plan, [], [student])
    kinds = sorted({artifact.kind for artifact in found.values()})
    assert kinds == ["dataset", "model", "prepared", "run"]
    runs = {name.split("-seed")[0] for name in found if name.startswith("runs/")}
    assert len(runs) == 1 + 1 + 2, "itself, its teacher, and the two values that were tried"
    [run] = [a for name, a in found.items() if name == f"runs/laptop/{student}-seed1"]
    assert {"paper:one", "method:logit-distillation", "task:words", "scale:laptop"} <= set(run.labels)
    assert run.type == "model" and run.name.islower()


# remotes and secrets


def _project(*public):
    return SimpleNamespace(settings=SimpleNamespace(public_remotes=list(public)))


def test_the_remote_is_the_one_named_else_the_default():
    config = {"core": {"remote": "lab"}, "remote": {"lab": {"url": "/a"}, "open": {"url": "ssh://me:secret@host/b"}}}
    assert remotes.chosen(config, None, _project("open")) == remotes.Remote("lab", "/a", False)
    assert remotes.chosen(config, "open", _project("open")) == remotes.Remote("open", "ssh://me:***@host/b", True)
    with pytest.raises(ConfigError, match="no remote 'lap'; did you mean 'lab'"):
        remotes.chosen(config, "lap", _project())
    with pytest.raises(remotes.RemoteError, match="dvc remote add --default lab URL"):
        remotes.chosen({"core": {}, "remote": {}}, None, _project())


@pytest.mark.parametrize(
    "settings",
    [
        {"url": "s3://b", "secret_access_key": "hush"},
        {"url": "ssh://me:hush@host/x"},
        {"url": "ssh://h", "password": "hush"},
        {"url": "ssh://h", "PASSWORD": "hush"},
        {"url": "https://hush@host/x"},
        {"url": "azure://container/x?sv=2024-11-04&sig=hush"},
        {"url": "https://host/x?X-Amz-Credential=hush&x=1"},
        {"url": "https://h", "auth": "hush"},
        {"url": "s3://b", "acces_kye": "hush"},
    ],
)
def test_secret_in_a_shared_configuration_is_refused_without_repeating_it(settings):
    with pytest.raises(remotes.RemoteError, match="dvc remote modify --local lab") as caught:
        remotes.refuse_shared_secrets({"remote": {"lab": settings}}, ".dvc/config")
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    "section",
    [{"studio": {"token": "hush"}}, {"db": {"mine": {"password": "hush"}}}, {"core": {"x": "https://hush@h"}}],
)
def test_secret_in_another_section_is_refused_too(section):
    with pytest.raises(remotes.RemoteError, match="under version control") as caught:
        remotes.refuse_shared_secrets(section, ".dvc/config")
    assert "hush" not in str(caught.value)


def test_settings_that_grant_nothing_may_be_shared():
    remotes.refuse_shared_secrets(
        {
            "core": {"analytics": "false", "remote": "lab"},
            "remote": {
                "lab": {
                    "url": "s3://bucket/x",
                    "endpointurl": "https://s3.example.org",
                    "profile": "lab",
                    "sse_kms_key_id": "alias",
                },
                "host": {"url": "ssh://me@host/srv", "port": 22, "keyfile": "~/.ssh/lab", "ask_password": True},
                "web": {
                    "url": "https://host/x",
                    "auth": "basic",
                    "user": "me",
                    "ask_password": True,
                    "ssl_verify": "true",
                },
            },
        },
        ".dvc/config",
    )


def test_secrets_of_dvcs_configuration_are_struck_out_of_what_is_said():
    remotes.hide_secrets(
        {"remote": {"lab": {"url": "ssh://me:from-url@host", "password": "from-config", "Token": "from-upper"}}}
    )
    error = remotes.RemoteError("from-url, from-config, from-upper in /home/me")
    assert str(error) == "***, ***, *** in /home/me"


# the working copy


def test_one_call_at_a_time_and_the_other_is_named(tmp_path):
    (tmp_path / ".dvc").mkdir()
    with (
        checkout.alone(tmp_path, "publish"),
        pytest.raises(checkout.CheckoutError, match=rf"`replica publish`, process {os.getpid()} on"),
        checkout.alone(tmp_path, "adopt"),
    ):
        pass
    with checkout.alone(tmp_path, "adopt"):
        pass


def test_lock_of_a_killed_process_holds_nobody_up(tmp_path):
    (tmp_path / ".dvc").mkdir()
    program = (
        "import sys, time; from pathlib import Path; from replica.sharing.checkout import alone\n"
        "with alone(Path(sys.argv[1]), 'publish'): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, encoding="utf-8"
    ) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(checkout.CheckoutError, match=f"process {process.pid}"), checkout.alone(tmp_path, "publish"):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
    lock = tmp_path / ".dvc" / "tmp" / "replica.lock"
    assert json.loads(lock.read_text(encoding="utf-8"))["pid"] == process.pid, "its words are still there"
    with checkout.alone(tmp_path, "publish"), open(lock, encoding="utf-8") as handle, pytest.raises(BlockingIOError):
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_nothing_is_shared_while_snakemake_is_at_work(tmp_path):
    (tmp_path / ".dvc").mkdir()
    locks = tmp_path / ".snakemake" / "locks"
    locks.mkdir(parents=True)
    with checkout.alone(tmp_path, "adopt"):
        pass
    (locks / "0.output.lock").write_text("results/x\n", encoding="utf-8")
    with (
        pytest.raises(checkout.CheckoutError, match="publish: Snakemake is at work in this folder"),
        checkout.alone(tmp_path, "publish"),
    ):
        pass


# Snakemake's records


def test_records_are_given_back_as_snakemake_wrote_them(tmp_path):
    from snakemake.persistence import MetadataRecord

    artifact = replace(RUN, kind="paper", folder="results/smoke/papers/one")
    names = ["claims.json", "tables/a.csv", "tables/.snakemake_timestamp"]
    there, here = Records(tmp_path / "there"), Records(tmp_path / "here")
    assert there.of(artifact.folder, names) is None
    record = MetadataRecord(
        rule="tables", params=["'x'"], input=["results/a.json"], code="do", record_format_version=6, starttime=time.time(),
        shellcmd="do it in /home/somebody", input_checksums={"results/a.json": "sha256:12"},
    )  # fmt: skip
    there.persistence._write_record("results/smoke/papers/one/tables", record)
    text = there.of(artifact.folder, names)
    assert b"/home/somebody" not in text and b"starttime" not in text
    here.persistence._write_record("results/smoke/papers/one/claims.json", MetadataRecord(rule="old"))
    here.persistence._mark_incomplete("results/smoke/papers/one/claims.json", None)
    here.restore(artifact.folder, names, text)
    assert here.of(artifact.folder, names) == text
    keys = ["results/smoke/papers/one/claims.json"]
    assert not here.persistence._filter_incomplete_keys(keys)


def test_results_made_from_another_input_are_noticed():
    text = json.dumps({"claims.json": {"input_checksums": {"a.json": "sha256:12", "b.json": "34"}}}).encode()
    assert other_input(text, {"a.json": "12", "b.json": "34"}.get) is None
    assert other_input(text, {"a.json": "12"}.get) is None, "what is not here says nothing"
    assert other_input(text, {"a.json": "12", "b.json": "56"}.get) == "b.json"


# the words about it


def _commands(language_free_blocks):
    for block in language_free_blocks:
        for line in block.splitlines():
            command = line.partition("#")[0].strip()
            if command:
                yield command


def test_commands_of_the_documentation_are_ones_that_exist(root):
    """Every line of docs/sharing.md's blocks is understood by the program that it calls."""
    import re
    import shlex

    from dvc.cli import parse_args

    from replica.cli import parser

    text = (root / "docs" / "sharing.md").read_text(encoding="utf-8")
    commands = list(_commands(re.findall(r"```\n(.*?)```", text, re.DOTALL)))
    assert len(commands) > 20
    for command in commands:
        for part in command.split("&&"):
            program, *arguments = shlex.split(part)
            if program == "replica":
                parser().parse_args(arguments)
            elif program == "dvc":
                parse_args(arguments)
            else:
                assert program in ("git", "cd", "make", "source", "snakemake"), part
    targets = set(re.findall(r"^([a-z]+):", (root / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert {"env", "report"} <= targets


def test_numbers_of_a_ledger_leave_out_what_was_not_measured():
    from replica.claims.ledger import numbers

    rows = [("one", "a", 1.5), ("one", "b", None), ("one", "c", True), ("two", "a:x", 3)]
    found = numbers({"paper": paper, "claim": claim, "our_value": value} for paper, claim, value in rows)
    assert found == {"one": {"a": 1.5}, "two": {"a:x": 3}}


def test_writing_into_the_projects_dvc_yaml_leaves_its_own_words_alone(root):
    import io

    from replica.sharing.store import _round_trip

    text, stream = (root / "dvc.yaml").read_text(encoding="utf-8"), io.StringIO()
    _round_trip().dump(_round_trip().load(text), stream)
    assert stream.getvalue() == text


def test_the_ledger_takes_the_pages_of_the_report_along(tmp_path):
    from replica.plan import Plan
    from replica.sharing.artifacts import ledger_of

    ledger = ledger_of(Plan(scale="laptop"), ["toy"])
    names = ("claims.csv", "claims.json", "papers.bib", "summary.json", "report/index.html", "other.txt")
    for name in names:
        (tmp_path / "results" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "results" / name).write_text(name, encoding="utf-8")
    assert ledger.missing(tmp_path) == ["report/site/files.json"]
    (tmp_path / "results" / "report" / "site" / "papers").mkdir(parents=True)
    (tmp_path / "results" / "report" / "site" / "papers" / "toy.html").write_text("page", encoding="utf-8")
    (tmp_path / "results" / "report" / "site" / "papers" / "mine.html").write_text(
        "a page that nothing names", encoding="utf-8"
    )
    write_json(tmp_path / "results" / "report" / "site" / "files.json", ["papers/toy.html", "papers/gone.html"])
    assert ledger.missing(tmp_path) == []
    assert ledger.strays(tmp_path) == ["report/site/papers/mine.html"]
    assert ledger.files(tmp_path) == [
        "claims.csv",
        "claims.json",
        "papers.bib",
        "report/index.html",
        "report/site/files.json",
        "report/site/papers/toy.html",
        "summary.json",
    ]
