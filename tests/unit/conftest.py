"""What several unit tests start from: a stand-in for the model hub; a small project, finished, published, and copies to spoil."""

from __future__ import annotations

import shutil

import pytest

from replica.sharing.publish import publish

from .published_project import SOMEBODY, default_remote, finish, planned, small


@pytest.fixture
def hub(monkeypatch):
    """A hub on the loopback interface that the real client talks to; nothing else may be reached."""
    from huggingface_hub import constants

    from replica.assets.hub import OFFLINE
    from tests.unit.assets_hub_server import Hub, serve

    for name in (*OFFLINE, "REPLICA_MIRROR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub = Hub()
    with serve(hub) as address:
        hub.address = address
        monkeypatch.setenv("HF_ENDPOINT", address)
        yield hub


@pytest.fixture
def somebody(monkeypatch):
    """Git knows who commits, and has no settings of the machine's."""
    for name, value in SOMEBODY.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A small project with every run finished and nothing published."""
    folder = small(tmp_path_factory.mktemp("finished") / "project")
    finish(folder)
    return folder


@pytest.fixture(scope="session")
def published(finished, tmp_path_factory):
    """The project after a first publication, beside its remote."""
    folder = shutil.copytree(finished, tmp_path_factory.mktemp("published") / "project")
    default_remote(folder, "../../remote")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SOMEBODY.items():
            patch.setenv(name, value)
        publish(*planned(folder), [], [])
    return folder


@pytest.fixture
def project(finished, tmp_path):
    """A copy of the finished project with a remote beside it."""
    folder = shutil.copytree(finished, tmp_path / "project")
    default_remote(folder, tmp_path / "remote")
    return folder


@pytest.fixture
def again(published, tmp_path):
    """A copy of the published project with its remote."""
    shutil.copytree(published.parent, tmp_path / "copy")
    return tmp_path / "copy" / "project"
