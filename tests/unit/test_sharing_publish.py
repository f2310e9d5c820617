"""Publishing: what is finished goes to the remote once, whole and verified; git and other people's work are left alone."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from replica.errors import AssetError, ConfigError
from replica.files import read_json, sha256_file, write_json, write_text
from replica.sharing import checkout, index, remotes, store
from replica.sharing import publish as module
from replica.sharing.publish import names, publish

from .published_project import SOMEBODY, default_remote, git, planned, score_again

pytestmark = pytest.mark.usefixtures("somebody")


def _run(folder, number=0):
    return sorted((folder / "results" / "laptop" / "runs").glob("adapt-*/seed0"))[number]


def _objects(remote):
    return sorted(path for path in remote.rglob("*") if path.is_file())


def _put_up(folder, *named, remote=None):
    project, plan = planned(folder)
    return publish(project, plan, *names(project, plan, named), remote)


def test_one_file_for_each_artifact_and_two_files_of_dvcs(published):
    entries = index.read(published)
    kinds = [entry.kind for entry in entries.values()]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "run": 13,
        "dataset": 1,
        "model": 1,
        "prepared": 1,
        "structural": 2,
        "paper": 2,
    }
    assert len(_objects(published.parent / "remote")) == len(entries)
    assert [path.name for path in published.rglob("*.dvc")] == [".dvc"], "dvc.yaml and dvc.lock say it all"
    lock = yaml.safe_load((published / "dvc.lock").read_text(encoding="utf-8"))
    assert [out["path"] for out in lock["stages"]["published"]["outs"]] == [f"published/{name}.tar" for name in entries]


def test_dvc_yaml_says_what_an_artifact_is(published):
    said = yaml.safe_load((published / "dvc.yaml").read_text(encoding="utf-8"))
    assert said["stages"]["published"]["frozen"] is True
    name = next(name for name in said["artifacts"] if "logit-distillation" in name and name.endswith("seed0"))
    entry = said["artifacts"][name]
    assert entry["type"] == "model" and entry["path"] == f"published/{name}.tar"
    assert {"method:logit-distillation", "task:words", "scale:laptop"} <= set(entry["labels"])
    assert "logit-distillation" in entry["desc"]
    assert said["artifacts"]["datasets/words"]["labels"] == ["licence:MIT"]


def test_dvc_itself_reads_what_was_written(published):
    from dvc.repo import Repo

    repo = Repo(str(published))
    assert len(repo.artifacts.read()["dvc.yaml"]) == len(index.read(published))
    assert repo.status() == {}
    assert repo.status(cloud=True) == {}


def test_everything_is_in_one_commit_and_nothing_is_left_over(published):
    assert git(published, "status", "--porcelain") == ""
    files = git(published, "show", "--name-only", "--format=%s").split("\n\n")
    assert files[0] == "Publish 20 artifacts to lab"
    assert files[1].split() == ["dvc.lock", "dvc.yaml", "published/index.json"]


def test_second_call_changes_nothing(again):
    before = {path: path.stat().st_mtime_ns for path in [again / "dvc.yaml", again / "dvc.lock", again / index.PATH]}
    head = git(again, "rev-parse", "HEAD")
    done = _put_up(again)
    assert (done.new, len(done.same), done.commit) == ([], 20, None)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert git(again, "rev-parse", "HEAD") == head


def test_a_new_result_changes_its_own_archive_alone(again):
    run = _run(again)
    facts = read_json(run / "metrics.json")
    facts["tasks"]["words"]["accuracy"]["value"] = 0.75
    score_again(run / "metrics.json", tasks=facts["tasks"])
    done = _put_up(again)
    assert done.new == [f"runs/laptop/{run.parent.name}-seed0"] and done.commit
    assert git(again, "show", "--name-only", "--format=").split() == ["dvc.lock", "published/index.json"]


def test_touched_files_are_read_again_and_are_no_news(again):
    os.utime(_run(again) / "metrics.json")
    assert _put_up(again).new == []


def test_one_run_is_published_with_what_it_was_made_from(project):
    plan = planned(project)[1]
    student = plan.named["one"]["laptop"]["student"]
    done = _put_up(project, student)
    kinds = {name.split("/")[0] for name in done.new}
    assert kinds == {"runs", "datasets", "models", "prepared"}
    assert {name.split("-seed")[0].rpartition("/")[2] for name in done.new if "runs/" in name} == {
        student,
        plan.runs[student].parents["teacher"],
    }


def test_a_paper_by_name_and_an_unknown_name(project):
    done = _put_up(project, "two")
    assert "papers/laptop/two" in done.new and "papers/laptop/one" not in done.new
    with pytest.raises(ConfigError, match="no paper and no run 'onn' at scale laptop; did you mean 'one'"):
        _put_up(project, "onn")


def test_what_is_not_finished_is_left_out_with_the_reason(project):
    gone, unscored = _run(project, 0), _run(project, 1)
    shutil.rmtree(gone)
    (unscored / "metrics.json").unlink()
    done = _put_up(project)
    [(name, reason)] = ((name, reason) for name, reason in done.left_out.items() if not name.startswith("papers/"))
    assert set(done.left_out) - {name} == {"papers/laptop/one", "papers/laptop/two"}, "claims of other results"
    assert reason == f"{unscored.relative_to(project)}/metrics.json is not here" and name not in done.new
    assert not any(f"{gone.parent.name}-seed0" in name for name in done.new)


def test_own_edits_of_dvc_yaml_stay_and_are_not_committed_by_publishing(again):
    text = (
        "# my own words\n"
        + (again / "dvc.yaml").read_text(encoding="utf-8")
        + "metrics:\n- results/pinned/numbers.json\n"
    )
    write_text(again / "dvc.yaml", text)
    with pytest.raises(
        checkout.CheckoutError, match=r"dvc.yaml: has changes that are not committed; commit them first"
    ):
        _put_up(again)
    git(again, "commit", "--quiet", "--message", "mine", "--", "dvc.yaml")
    shutil.rmtree(_run(again))
    finish_one = _run(again, 0)
    score_again(finish_one / "metrics.json", note=1)
    _put_up(again)
    text = (again / "dvc.yaml").read_text(encoding="utf-8")
    assert "# my own words" in text and "results/pinned/numbers.json" in text


def test_other_staged_work_is_not_committed(project):
    write_text(project / "mine.txt", "mine\n")
    git(project, "add", "mine.txt")
    _put_up(project)
    assert git(project, "status", "--porcelain") == "A  mine.txt\n"


def test_git_without_a_name_is_said_before_anything_is_written(project, monkeypatch):
    for name in SOMEBODY:
        if "CONFIG" not in name:
            monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "user.useConfigOnly")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "true")
    with pytest.raises(checkout.CheckoutError, match=r"git config user.name NAME"):
        _put_up(project)
    assert not (project / index.PATH).exists() and not (project / "dvc.yaml").exists()


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1", "safe.directory"), ("PATH", "/nowhere", "git cannot be started")],
    ids=["another's repository", "no git"],
)
def test_git_that_cannot_work_is_said_in_its_words_before_anything_is_written(
    project, monkeypatch, variable, value, said
):
    monkeypatch.setenv(variable, value)
    with pytest.raises(checkout.CheckoutError, match=said):
        _put_up(project)
    assert not (project / index.PATH).exists() and not (project / "dvc.yaml").exists()


@pytest.mark.parametrize("place", ["dvc.yaml", "dvc.lock", "index", "push", "commit"])
def test_interrupted_anywhere_the_same_call_completes(project, monkeypatch, place):
    """The process ends before the named step; the next call must finish as if nothing had happened."""

    def stop(*arguments, **options):
        raise KeyboardInterrupt

    steps = {
        "dvc.yaml": (store.Store, "_write_pipeline"),
        "dvc.lock": (store.Store, "_write_lock"),
        "index": (index, "write"),
        "push": (store.Store, "push"),
        "commit": (checkout, "commit"),
    }
    with monkeypatch.context() as patch:
        patch.setattr(*steps[place], stop)
        with pytest.raises(KeyboardInterrupt):
            _put_up(project)
    head = git(project, "log", "--format=%s", "-1").strip()
    assert head == "A remote", "nothing is committed before everything is pushed"
    done = _put_up(project)
    assert done.commit and len(done.new) + len(done.same) == 20
    assert len(_objects(project.parent / "remote")) == 20
    assert git(project, "status", "--porcelain") == ""
    assert _put_up(project).commit is None


def test_interrupted_push_is_completed(project):
    """A remote whose disk fills up after some uploads: the reason is said, and the next call pushes what is missing."""
    import dvc_objects.fs.generic as generic

    real, sent = generic.transfer, []

    def until_full(from_fs, from_path, to_fs, to_path, *arguments, **options):
        if "remote" in str(to_path) or "remote" in str(to_path[0]):
            options.pop("on_error", None)
            real(from_fs, from_path[:5], to_fs, to_path[:5], *arguments, **options)
            sent.append(to_path)
            raise OSError(28, "No space left on device")
        return real(from_fs, from_path, to_fs, to_path, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generic, "transfer", until_full)
        with pytest.raises(remotes.RemoteError, match=r"remote 'lab' .*No space left on device"):
            _put_up(project)
    assert sent and len(_objects(project.parent / "remote")) == 5
    assert git(project, "log", "--format=%s", "-1").strip() == "A remote"
    assert _put_up(project).commit and len(_objects(project.parent / "remote")) == 20


def test_half_an_upload_is_noticed_by_its_size_and_pushed_again(again):
    half = _objects(again.parent / "remote")[3]
    whole = half.read_bytes()
    os.chmod(half, 0o644)
    half.write_bytes(whole[:1000])
    os.chmod(half, 0o444)  # as DVC leaves files that it then trusts
    assert _put_up(again).new == []
    assert half.read_bytes() == whole


def test_remote_that_is_no_folder_is_one_line(project):
    (project.parent / "remote").write_text("a file where the remote should be", encoding="utf-8")
    with pytest.raises(remotes.RemoteError, match=r"remote 'lab' \(.*remote\): could not push: .*") as caught:
        _put_up(project)
    assert "\n" not in str(caught.value)
    assert git(project, "log", "--format=%s", "-1").strip() == "A remote"
    (project.parent / "remote").unlink()
    assert _put_up(project).commit


def test_secret_in_the_shared_configuration_stops_publishing(project):
    write_text(
        project / ".dvc" / "config",
        "[core]\n    remote = lab\n['remote \"lab\"']\n    url = ssh://me:hush-hush@host/x\n",
    )
    with pytest.raises(remotes.RemoteError, match="under version control") as caught:
        _put_up(project)
    assert "hush-hush" not in str(caught.value)


def test_a_remote_that_fails_shows_no_secret_of_its_address_or_of_this_machines_settings(project):
    write_text(
        project / ".dvc" / "config.local",
        "['remote \"lab\"']\n    url = http://TOKEN123@127.0.0.1:9/x?sig=hush-hush\n    password = from-local\n    user = me\n",
    )
    with pytest.raises(
        remotes.RemoteError, match=r"remote 'lab' \(http://\*\*\*@127.0.0.1:9/x\?sig=\*\*\*\)"
    ) as caught:
        _put_up(project)
    assert not [word for word in ("TOKEN123", "hush-hush", "from-local") if word in str(caught.value)]


def test_data_that_may_not_be_passed_on_stays_from_a_public_remote(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "project")
    registry = yaml.safe_load((folder / "config" / "datasets.yaml").read_text(encoding="utf-8"))
    registry["datasets"]["words"].update(redistribute=False, licence="ask the owner")
    write_text(folder / "config" / "datasets.yaml", yaml.safe_dump(registry))
    settings = yaml.safe_load((folder / "config" / "config.yaml").read_text(encoding="utf-8"))
    write_text(folder / "config" / "config.yaml", yaml.safe_dump({**settings, "public_remotes": ["open"]}))
    git(folder, "commit", "--quiet", "--all", "--message", "words may not be passed on")
    default_remote(folder, tmp_path / "open", "open")
    done = _put_up(folder)
    assert set(done.left_out) == {"datasets/words", "prepared/words-base-d8012d90"}
    assert all("'open' is marked public" in reason and "ask the owner" in reason for reason in done.left_out.values())
    assert len(_objects(tmp_path / "open")) == 18 and not any("datasets/" in name for name in index.read(folder))
    with open(folder / ".dvc" / "config", "a", encoding="utf-8") as handle:
        handle.write(f"['remote \"lab\"']\n    url = {tmp_path / 'lab'}\n")
    assert len(_put_up(folder, remote="lab").new) == 2 and len(_objects(tmp_path / "lab")) == 20
    _put_up(folder, remote="open")
    from dvc.repo import Repo

    Repo(str(folder)).push(remote="open")  # a person who types `dvc push` passes nothing on either
    assert len(_objects(tmp_path / "open")) == 18


def test_memory_of_earlier_calls_may_be_lost(again):
    Path(again / module.MEMORY).write_text("{ half", encoding="utf-8")
    assert _put_up(again).new == []


def test_locks_that_a_killed_dvc_left_behind_hold_nobody_up(project):
    place = project / ".dvc" / "tmp"
    place.mkdir(parents=True)
    (place / "lock").write_text(" 999999\n", encoding="utf-8")
    write_json(
        place / "rwlock", {"write": {str(project / "published"): {"pid": 999999, "cmd": "dvc push"}}, "read": {}}
    )
    assert _put_up(project).commit


def test_lock_that_a_killed_git_left_behind_is_named(project):
    (project / ".git" / "index.lock").touch()
    with pytest.raises(checkout.CheckoutError, match=r"git add: .*index.lock.*File exists"):
        _put_up(project)
    (project / ".git" / "index.lock").unlink()
    assert _put_up(project).commit


@pytest.mark.parametrize("second, conflict", [(1, False), (0, True)], ids=["other runs", "the same run"])
def test_two_who_published_apart_come_together(again, tmp_path, second, conflict):
    """What is not the same artifact, git joins; else one side's files are taken, and publishing adds the other's (docs/sharing.md)."""
    other = shutil.copytree(again, tmp_path / "copy" / "other")
    for folder, number in ((again, 0), (other, second)):
        run = _run(folder, number)
        score_again(run / "metrics.json", note=folder.name)
        assert len(_put_up(folder).new) == 1
    mine, name = index.read(other), f"runs/laptop/{_run(other, second).parent.name}-seed0"
    git(other, "remote", "add", "first", str(again))
    git(other, "fetch", "--quiet", "first")
    merged = subprocess.run(
        ["git", "merge", "--quiet", "first/main"],
        cwd=other,
        env={**os.environ, **SOMEBODY},
        capture_output=True,
        check=False,
    )
    assert bool(merged.returncode) == conflict
    if conflict:
        git(other, "checkout", "--theirs", "--", "dvc.yaml", "dvc.lock", "published")
        git(other, "commit", "--quiet", "--all", "--message", "Published by both")
        assert index.read(other)[name] != mine[name]
    _put_up(other)
    assert index.read(other)[name] == mine[name]
    assert git(other, "status", "--porcelain") == "" and _put_up(other).commit is None


def _in_archives(folder):
    """Return every name in every archive, and all bytes of the archives and the remote."""
    paths = [*(folder / "published").rglob("*.tar"), *_objects(folder.parent / "remote")]
    return {name for entry in index.read(folder).values() for name in entry.files}, b"".join(
        p.read_bytes() for p in paths
    )


def test_what_nothing_names_is_not_published_and_is_said(project):
    """A note in a run's folder, a file beside the tables, a link to a file and one to a folder elsewhere."""
    secret = project.parent / "elsewhere" / "secret.txt"
    write_text(secret, "hush-hush")
    run, results = _run(project), project / "results" / "laptop" / "papers" / "one"
    strays = [run / "notes.txt", results / "tables" / "mine.csv", results / "draft.json"]
    for path in strays:
        write_text(path, "hush-hush")
    (run / "leak.txt").symlink_to(secret)
    (results / "figures" / "linked").symlink_to(secret.parent)
    done = _put_up(project)
    wanted = [*strays, run / "leak.txt", results / "figures" / "linked"]
    assert sorted(done.strays) == sorted(path.relative_to(project).as_posix() for path in wanted)
    names, content = _in_archives(project)
    assert not names & {path.name for path in wanted} and b"hush-hush" not in content
    assert len(done.new) == 20


@pytest.mark.parametrize("place", ["file", "folder", "manifest"])
def test_no_link_is_followed_and_no_manifest_leads_out_of_its_folder(again, place):
    """A named file that became a link, a folder of named files that became one, and a manifest that names a file outside."""
    if place == "folder":
        inside = again / "results" / "laptop" / "papers" / "one" / "figures"
        (again / "figures").mkdir()
        (inside / "verdicts.svg").rename(again / "figures" / "verdicts.svg")
        shutil.rmtree(inside)
        inside.symlink_to(again / "figures")
        said = "figures/verdicts.svg"
    else:
        inside = _run(again) / "metrics.json" if place == "file" else again / "assets" / "datasets" / "words"
        secret = again / "assets" / "datasets" / "secret.json"
        if place == "file":
            inside.rename(secret)
            inside.symlink_to(secret)
            said = "metrics.json"
        else:
            write_text(secret, "hush-hush")
            facts = read_json(inside / "manifest.json")
            score_again(
                inside / "manifest.json", files={**facts["files"], "../secret.json": {"sha256": sha256_file(secret)}}
            )
            said = r"\.\./secret.json"
    head = git(again, "rev-parse", "HEAD")
    with pytest.raises(AssetError, match=rf"nothing was published.*{said}: leads out of .* or through a link"):
        _put_up(again)
    assert git(again, "rev-parse", "HEAD") == head and b"hush-hush" not in _in_archives(again)[1]


def test_a_whole_folder_may_lie_behind_a_link(project):
    """Results on another disk: the folder that holds everything is a link, nothing in it is."""
    (project / "results" / "laptop").rename(project.parent / "disk")
    (project / "results" / "laptop").symlink_to(project.parent / "disk")
    assert len(_put_up(project).new) == 20
