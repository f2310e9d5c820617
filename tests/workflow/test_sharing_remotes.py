"""Remotes that fail: what is wrong is one line without secrets, nothing is committed, and the same call completes when it is mended."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time

import pytest

from replica.sharing import index
from tests.unit.published_project import SOMEBODY, finish, small

from .lab import Remote, clone, dvc, git, need, replica, s3_remote, ssh_remote, use

pytestmark = pytest.mark.workflow


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A small project with every run finished and nothing published."""
    folder = small(tmp_path_factory.mktemp("finished") / "project")
    finish(folder)
    return folder


@pytest.fixture
def project(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "project")


def _fails(folder, remote, *says):
    """Publishing ends in one line that says these things, and commits nothing."""
    head = git(folder, "rev-parse", "HEAD")
    done = replica(folder, "publish", check=False, **remote.environment)
    lines = [line for line in done.stdout.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2 and len(lines) == 1 and "Traceback" not in done.stdout, done.stdout
    for words in says:
        assert words in lines[0], lines[0]
    assert not any(secret in done.stdout for secret in remote.secrets)
    assert git(folder, "rev-parse", "HEAD") == head
    return lines[0]


def _completes(folder, remote, place):
    count = len(index.read(folder)) or 20
    said = replica(folder, "publish", **remote.environment).stdout
    assert "committed as" in said, said
    other = clone(folder, place / "other")
    use(other, remote, commit=False)
    assert f"{count} artifacts adopted" in replica(other, "adopt", **remote.environment).stdout


def test_bucket_that_is_down_or_missing_and_half_an_upload(project, tmp_path):
    need("s3")
    import boto3

    down = Remote("s3://lab/store", {"endpointurl": "http://127.0.0.1:9", "region": "us-east-1"}, secrets=["s3-secret"])
    down.environment = {"AWS_ACCESS_KEY_ID": "AKIAX", "AWS_SECRET_ACCESS_KEY": "s3-secret"}
    use(project, down)
    _fails(project, down, "remote 'lab' (s3://lab/store): could not push", "127.0.0.1:9")
    with s3_remote(tmp_path) as remote:
        use(
            project, Remote("s3://nowhere/store", remote.shared, environment=remote.environment, secrets=remote.secrets)
        )
        _fails(project, remote, "remote 'lab' (s3://nowhere/store)", "bucket")
        use(project, remote)
        _completes(project, remote, tmp_path)
        client = boto3.client(
            "s3",
            endpoint_url=remote.shared["endpointurl"],
            region_name="us-east-1",
            aws_access_key_id=remote.secrets[0],
            aws_secret_access_key=remote.secrets[1],
        )
        found = client.list_objects_v2(Bucket="lab")["Contents"]
        half = found[4]["Key"]
        client.put_object(Bucket="lab", Key=half, Body=b"half")
        shutil.rmtree(tmp_path / "other")
        other = clone(project, tmp_path / "other")
        done = replica(other, "adopt", check=False, **remote.environment)
        assert done.returncode == 2 and "sha256 is" in done.stdout and "nothing was touched" in done.stdout
        assert half in done.stdout, "where it lies is said"
        replica(project, "publish", **remote.environment)
        assert client.head_object(Bucket="lab", Key=half)["ContentLength"] == found[4]["Size"]
        assert "20 artifacts adopted" in replica(other, "adopt", **remote.environment).stdout


def test_host_that_is_down_or_refuses(project, tmp_path):
    need("ssh")
    down = Remote(
        f"ssh://127.0.0.1:9{tmp_path}/remote", {"user": "root"}, {"password": "ssh-secret"}, secrets=["ssh-secret"]
    )
    use(project, down)
    _fails(project, down, "remote 'lab' (ssh://127.0.0.1:9", "could not push", "ConnectionRefused")
    with ssh_remote(tmp_path) as remote:
        stranger = str(tmp_path / "stranger")
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", stranger], check=True)
        use(project, Remote(remote.url, remote.shared, {"keyfile": stranger}))
        dvc(project, "remote", "modify", "--local", "--unset", "lab", "password")
        said = _fails(project, remote, "remote 'lab' (ssh://")
        assert re.search("denied|authentication", said), said
        use(project, remote, commit=False)
        (tmp_path / "remote").write_text("a file where the remote should be", encoding="utf-8")
        _fails(project, remote, "remote 'lab' (ssh://")
        (tmp_path / "remote").unlink()
        _completes(project, remote, tmp_path)


def test_killed_at_any_time_the_next_call_completes(project, tmp_path):
    remote = Remote(str(tmp_path / "remote"))
    use(project, remote)
    for delay in (0.5, 1.5, 2.5, 3.5, 5):
        process = subprocess.Popen(
            [sys.executable, "-m", "replica.cli", "publish"],
            cwd=project,
            env={**os.environ, **SOMEBODY},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(delay)
        process.kill()
        process.wait()
    (project / ".git" / "index.lock").unlink(missing_ok=True)  # git's own, where it was killed with it
    replica(project, "publish")
    assert git(project, "status", "--porcelain") == ""
    assert git(project, "log", "--format=%s").startswith("Publish ")
    other = clone(project, tmp_path / "other")
    assert "20 artifacts adopted" in replica(other, "adopt").stdout
    assert not list((project / "published").rglob(".*.tar.*")), "what was half packed is gone"
