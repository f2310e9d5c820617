"""No secret of the environment, of a setting or of an address stands in a message, a log or a record."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest

from replica import secrets
from replica.errors import AssetError, RepeatedError
from replica.training import failures

VARIABLES = (
    "AZURE_STORAGE_KEY", "GITHUB_PAT", "LAB_PASS", "SSHPASS", "PGPASSWORD", "DB_PASSWORD", "WANDB_API_KEY", "HF_TOKEN", "CLIENT_SECRET",
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AZURE_STORAGE_CONNECTION_STRING", "hf_token", "OSS_ACCESS_KEY_SECRET", "MYSQL_PWD",
)  # fmt: skip
OTHERS = (
    "PWD",
    "OLDPWD",
    "TOKENIZERS_PARALLELISM",
    "HF_TOKEN_PATH",
    "SSH_AUTH_SOCK",
    "KEYBOARD",
    "MONKEY",
    "COMPASS",
    "PATH",
)


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    monkeypatch.setattr(secrets, "_hidden", set())


@pytest.mark.parametrize("name", VARIABLES)
def test_a_variable_that_grants_access_is_known_by_its_name(name):
    assert secrets.in_environment({name: "hush-hush"}) == {"hush-hush"}


@pytest.mark.parametrize("name", OTHERS)
def test_other_variables_are_no_secrets(name):
    assert secrets.in_environment({name: "hush-hush"}) == set()


def test_words_and_paths_are_no_secrets():
    assert secrets.in_environment({"A_TOKEN": "false", "B_PASS": "1", "C_TOKEN": "/run/secrets/token"}) == set()


def test_addresses_in_the_environment_are_looked_at():
    places = {
        "PIP_INDEX_URL": "https://me:hush-hush@index",
        "HTTPS_PROXY": "http://proxy-pass@proxy:3128",
        "URL": "https://h/x?v=abcdefg",
    }
    assert secrets.in_environment(places) == {"hush-hush", "proxy-pass"}


@pytest.mark.parametrize(
    "text, shown",
    [
        ("https://TOKEN@host/x: no", "https://***@host/x: no"),
        ("HTTPS://me:hush@host", "HTTPS://***:***@host"),
        ("ssh://me:hush@host/x", "ssh://me:***@host/x"),
        ("ssh://me@host/x", "ssh://me@host/x"),
        ("https://p@ss:w@rd@host/", "https://***:***@host/"),
        ("azure://c/x?sv=1&sig=hush#f (no)", "azure://c/x?sv=***&sig=***#f (no)"),
        ("(https://h/x?X-Amz-Signature=hush)", "(https://h/x?X-Amz-Signature=***)"),
        ("see https://hub.org/a@main/b?", "see https://hub.org/a@main/b?"),
        ("AccountName=a;AccountKey=hush==;x", "AccountName=a;AccountKey=***;x"),
        ("Authorization: Bearer hush", "Authorization: Bearer ***"),
        ("[http://[bad", "[http://[bad"),
    ],
)
def test_what_an_address_carries_is_struck_out_though_nobody_knew_it(text, shown):
    assert secrets.masked(text) == shown and "hush" not in shown


def test_a_message_shows_no_secret_wherever_it_goes(monkeypatch):
    monkeypatch.setenv("LAB_PASSWORD", "hush-hush")
    secrets.hide(["from-config", "x", "true"])
    for error in (AssetError("a hush-hush from-config x true"), RepeatedError("a hush-hush from-config x true", 2)):
        assert str(error) == f"{error}" == "a *** *** x true"


def test_a_remembered_failure_shows_no_secret(monkeypatch):
    monkeypatch.setenv("LAB_PASSWORD", "hush-hush")
    with pytest.raises(ValueError) as caught:
        raise ValueError("at https://me:other@host with hush-hush")
    assert failures._message(caught.value).startswith(
        "ValueError: at https://***:***@host with *** (at test_secrets.py"
    )


@pytest.mark.parametrize("kind, status", [("ReplicaError", 2), ("ValueError", 1)])
def test_a_program_that_fails_prints_no_secret(kind, status):
    """A mistake is one line, a bug a traceback; neither holds what the environment or an address granted access with."""
    code = (
        "from replica.errors import ReplicaError; from replica.jobs.programs import main\n"
        f"def program(): raise {kind}('hush-hush at https://other@host')\nmain(program)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, env={"LAB_TOKEN": "hush-hush", "PYTHONPATH": ":".join(sys.path)}, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == status and "*** at https://***@host" in done.stderr
    assert "hush-hush" not in done.stderr


def test_the_printed_call_of_snakemake_shows_no_secret(monkeypatch, tmp_path, capsys):
    from replica.cli import run as module

    monkeypatch.setenv("LAB_PASSWORD", "hush-hush")
    monkeypatch.setattr(
        module, "load_project", lambda *a, **k: SimpleNamespace(enabled=[], papers={}, paper_folders={})
    )
    monkeypatch.setattr(module, "build_plan", lambda project: SimpleNamespace(scale="smoke"))
    monkeypatch.setattr(module.subprocess, "run", lambda *a, **k: SimpleNamespace(returncode=0))
    options = SimpleNamespace(root=str(tmp_path), names=[], all=False, scale=None, dry_run=True, profile=None)
    options.snakemake = "--default-storage-provider http --storage-http-auth hush-hush"
    assert module.run(options) == 0
    assert "--storage-http-auth ***" in capsys.readouterr().out
