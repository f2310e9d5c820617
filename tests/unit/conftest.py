"""What several unit tests start: a stand-in for the model hub."""

import pytest


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
