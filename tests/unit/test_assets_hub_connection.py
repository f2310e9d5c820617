"""Slow, broken and absent connections to the hub: what arrived is kept and gone on with, what is wrong is not."""

import json
import ssl
from types import SimpleNamespace

import pytest

from replica.assets import hub as hub_source
from replica.assets import manifest, retrieve_model
from replica.errors import AssetError
from tests.unit.assets_helpers import REVISION, left_in, project, safetensors

WEIGHTS = safetensors(bytes(range(256)) * 32)
CONFIG = json.dumps({"model_type": "bert", "hidden_size": 4}).encode()
FILE = "model.safetensors"
CHUNK = 512


@pytest.fixture(autouse=True)
def model(hub, monkeypatch):
    """The client with small chunks, little patience and no pauses between its tries."""
    from huggingface_hub import constants, file_download

    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", CHUNK)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
    monkeypatch.setattr(file_download, "time", SimpleNamespace(sleep=lambda seconds: None))
    hub.repositories["models/owner/model"] = {"config.json": CONFIG, FILE: WEIGHTS, "vocab.txt": b"a\n"}
    return hub


def get(tmp_path):
    entry = {"title": "t", "architecture": "bert", "config": {"hidden_size": 4}}
    entry["sources"] = {"hub": {"repo": "owner/model", "revision": REVISION}}
    return retrieve_model(project(models={"m": entry}, root=tmp_path), "m", tmp_path / "out" / "m")


def kept(tmp_path):
    """Names and sizes of what is kept of broken downloads."""
    folder = tmp_path / "state" / "downloads" / f"models-m-{REVISION[:12]}"
    return {path.name: path.stat().st_size for path in folder.rglob("*")} if folder.exists() else {}


def whole(tmp_path, folder):
    assert (folder / FILE).read_bytes() == WEIGHTS
    assert set(manifest.verify(folder)["files"]) == {"config.json", FILE, "vocab.txt"}
    assert kept(tmp_path) == {}
    return True


def test_a_slow_connection_is_waited_for(hub, tmp_path):
    hub.drips[FILE] = 0.05
    assert whole(tmp_path, get(tmp_path))


def test_a_connection_that_breaks_goes_on_where_it_stopped(hub, tmp_path):
    hub.breaks[FILE] = [3 * CHUNK + 10, 2 * CHUNK + 10]
    assert whole(tmp_path, get(tmp_path))
    assert [first for name, first in hub.started if name == FILE] == [0, 3 * CHUNK, 5 * CHUNK]


def test_a_connection_that_stalls_goes_on_where_it_stopped(hub, tmp_path):
    hub.stalls[FILE] = [1.0]
    assert whole(tmp_path, get(tmp_path))
    half = len(WEIGHTS) // 2
    assert [first for name, first in hub.started if name == FILE] == [0, half - half % CHUNK]


def test_a_download_that_broke_off_is_kept_and_the_next_call_goes_on(hub, tmp_path):
    hub.breaks[FILE] = [4 * CHUNK + 10] + [0] * 20
    with pytest.raises(
        AssetError, match=r"truncated on its way .*retrieve it again: it goes on where it stopped"
    ) as error:
        get(tmp_path)
    assert "\n" not in str(error.value)
    assert left_in(tmp_path / "out") == []
    assert kept(tmp_path) == {"config.json": len(CONFIG), f"{FILE}.part": 4 * CHUNK}
    hub.breaks.clear()
    hub.started.clear()
    assert whole(tmp_path, get(tmp_path))
    assert hub.started == [(FILE, 4 * CHUNK), ("vocab.txt", 0)]


def test_a_hub_that_falls_silent_says_what_is_kept(hub, tmp_path):
    hub.breaks[FILE] = [4 * CHUNK + 10] + [0] * 20
    with pytest.raises(AssetError):
        get(tmp_path)
    hub.breaks.clear()
    hub.stalls[FILE] = [1.0] * 20
    hub.silent.add(FILE)
    with pytest.raises(AssetError, match=rf"no network to the hub .*; {4 * CHUNK:,} bytes of {FILE} are kept"):
        get(tmp_path)


def test_a_killed_process_leaves_what_the_next_goes_on_with(hub, tmp_path, monkeypatch):
    from huggingface_hub import file_download

    def killed(location, handle, **options):
        handle.write(WEIGHTS[:1000] if location.endswith(FILE) else CONFIG)
        if location.endswith(FILE):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(file_download, "http_get", killed)
        with pytest.raises(KeyboardInterrupt):
            get(tmp_path)
    assert kept(tmp_path) == {"config.json": len(CONFIG), f"{FILE}.part": 1000}
    assert left_in(tmp_path / "out") == []
    assert whole(tmp_path, get(tmp_path))
    assert hub.started[0] == (FILE, 1000)


def test_a_part_that_is_wrong_is_thrown_away_with_both_hashes(hub, tmp_path):
    hub.breaks[FILE] = [4 * CHUNK + 10] + [0] * 20
    with pytest.raises(AssetError):
        get(tmp_path)
    [part] = (tmp_path / "state").rglob("*.part")
    part.write_bytes(b"x" * (4 * CHUNK))
    hub.breaks.clear()
    with pytest.raises(
        AssetError, match=r"arrived with sha256 [0-9a-f]{64}, the hub has [0-9a-f]{64}: corrupt on its way"
    ):
        get(tmp_path)
    assert kept(tmp_path) == {}
    assert whole(tmp_path, get(tmp_path))


def test_large_files_on_another_host_resume_there(hub, tmp_path):
    hub.redirects = True
    hub.breaks[FILE] = [3 * CHUNK + 10]
    assert whole(tmp_path, get(tmp_path))
    assert [first for name, first in hub.started if name == FILE] == [0, 3 * CHUNK]
    assert any(path.startswith("cdn/") for path in hub.asked)


def test_a_part_that_is_whole_is_not_asked_for_again(hub, tmp_path):
    hub.breaks[FILE] = [4 * CHUNK + 10] + [0] * 20
    with pytest.raises(AssetError):
        get(tmp_path)
    [part] = (tmp_path / "state").rglob("*.part")
    part.write_bytes(WEIGHTS)  # killed between the last byte and the new name
    hub.started.clear()
    assert whole(tmp_path, get(tmp_path))
    assert hub.started == [("vocab.txt", 0)]


def test_a_hub_that_sends_from_the_start_again_is_understood(hub, tmp_path):
    hub.breaks[FILE] = [4 * CHUNK + 10] + [0] * 20
    with pytest.raises(AssetError):
        get(tmp_path)
    hub.breaks.clear()
    hub.ranges = False
    assert whole(tmp_path, get(tmp_path))


def test_no_network_at_all_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(AssetError, match="hub: no network to the hub for owner/model at") as error:
        get(tmp_path)
    assert "\n" not in str(error.value)
    assert left_in(tmp_path / "out") == []
    assert kept(tmp_path) == {}


@pytest.mark.parametrize("variable", hub_source.CERTIFICATES)
def test_certificates_that_are_not_there_are_named(tmp_path, monkeypatch, variable):
    monkeypatch.setenv(variable, "/nope.pem")
    with pytest.raises(
        AssetError, match=f"no source has it: .*hub: .* {variable} names certificates in /nope.pem, which is not there"
    ):
        get(tmp_path)
    assert left_in(tmp_path / "out") == []


@pytest.mark.parametrize(
    "error, message",
    [
        (ssl.SSLError("no certificate or crl found"), "SSLError: .*no certificate or crl found"),
        (FileNotFoundError(2, "No such file or directory"), "FileNotFoundError: .*No such file or directory"),
    ],
)
def test_an_error_of_the_connection_is_never_blamed_on_the_disk(tmp_path, monkeypatch, error, message):
    def client():
        raise error

    monkeypatch.setattr(hub_source, "_api", client)
    with pytest.raises(
        AssetError, match=rf"no source has it: .*hub: no connection to the hub for owner/model .*{message}"
    ):
        get(tmp_path)
