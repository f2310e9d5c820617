"""A lab for tests of sharing: a checkout under git and DVC, other people's clones, and remotes that really answer on loopback."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from replica.config.paper_folder import read_paper
from tests.unit.published_project import SOMEBODY, clone, git, under_version_control

from .checkout import ROOT, environment, make_checkout

#: The claims that are kept: one with a trend and one of the architecture each; six runs in all, some of them with parents.
KEPT = {"compacter": ["compacter-parity", "compacter-params"], "bipft": ["bipft-glue-gain", "bipft-memory-arithmetic"]}
__all__ = [
    "KEPT",
    "Remote",
    "clone",
    "dvc",
    "folder_remote",
    "git",
    "make_lab",
    "need",
    "replica",
    "s3_remote",
    "ssh_remote",
    "use",
]


def make_lab(folder: Path) -> Path:
    """Make a checkout of two papers with few runs, at smoke scale, with the code in it, under git and DVC."""
    make_checkout(folder, list(KEPT), sections=["laptop"])
    path = folder / "config" / "config.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("scale: laptop", "scale: smoke"), encoding="utf-8")
    for paper, kept in KEPT.items():
        path = folder / "config" / "papers" / paper
        value = read_paper(path).model_dump(mode="json", by_alias=True, exclude_unset=True)
        claims = [claim for claim in value["claims"] if claim["id"] in kept]
        read = set(re.findall(r"[\w-]+", yaml.safe_dump(claims)))
        measured = {name: item for name, item in value["measurements"].items() if name in read}
        value = {key: part for key, part in value.items() if key not in ("tables", "figures")}  # of the others' claims
        (path / "paper.yaml").write_text(
            yaml.safe_dump({**value, "claims": claims, "measurements": measured}, sort_keys=False), encoding="utf-8"
        )
    shutil.copytree(ROOT / "src" / "replica", folder / "src" / "replica", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "dvc.yaml", folder / "dvc.yaml")
    (folder / "profiles").symlink_to("workflow/profiles")  # as in the project: plain `snakemake` takes all cores
    return under_version_control(folder)


def python_path(folder: Path) -> str:
    """Python's path with a lab's own copy of the code before everything else."""
    return os.pathsep.join(filter(None, [str(folder / "src"), os.environ.get("PYTHONPATH")]))


def run(folder: Path, command: list[str], more: dict[str, str], check: bool) -> subprocess.CompletedProcess[str]:
    environ = {**environment(), **SOMEBODY, "PYTHONPATH": python_path(folder), **more}
    done = subprocess.run(
        command,
        cwd=folder,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        check=False,
    )
    if check:
        assert done.returncode == 0, done.stdout[-6000:]
    return done


def replica(folder: Path, *arguments: str, check: bool = True, **more: str) -> subprocess.CompletedProcess[str]:
    """Run the command line `replica` in a folder; output and errors come back together."""
    return run(folder, [sys.executable, "-m", "replica.cli", *arguments], more, check)


def dvc(folder: Path, *arguments: str, check: bool = True, **more: str) -> subprocess.CompletedProcess[str]:
    """Run DVC in a folder as a person would."""
    return run(folder, [sys.executable, "-m", "dvc", *arguments], more, check)


@dataclass
class Remote:
    """A remote of a lab: what everybody may know of it, and what only this machine does."""

    url: str
    shared: dict[str, str] = field(default_factory=dict)
    local: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    secrets: list[str] = field(default_factory=list)


def use(folder: Path, remote: Remote, commit: bool = True) -> None:
    """Make a remote the default, in the shared configuration what is shared, in the local one what is not."""
    if commit:
        dvc(folder, "remote", "add", "--default", "--force", "lab", remote.url)
        for key, value in remote.shared.items():
            dvc(folder, "remote", "modify", "lab", key, value)
        git(folder, "commit", "--quiet", "--message", "A remote", "--", ".dvc/config")
    for key, value in remote.local.items():
        dvc(folder, "remote", "modify", "--local", "lab", key, value)


def folder_remote(place: Path) -> Remote:
    """A remote that is a folder."""
    return Remote(str(place / "remote"))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def _served(command: list[str], port: int, place: Path, **more: str) -> Iterator[subprocess.Popen]:
    """Run a server until the block ends; it has to answer on its port within half a minute."""
    with open(place / "server.log", "w", encoding="utf-8") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **more})
    try:
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, (place / "server.log").read_text(encoding="utf-8")
            time.sleep(0.1)
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(30)


def need(kind: str) -> None:
    """Skip a test loudly where this machine cannot serve a kind of remote."""
    packages = {"s3": ("moto", "dvc_s3"), "ssh": ("dvc_ssh",)}.get(kind, ())
    for package in packages:
        pytest.importorskip(
            package,
            reason=f"{package} is not installed: no test of {kind} remotes (pip install 'moto[server]' dvc-s3 dvc-ssh)",
        )
    if kind == "ssh" and not (shutil.which("sshd") or Path("/usr/sbin/sshd").exists()):
        pytest.skip("no sshd on this machine, no test of ssh remotes: apt install openssh-server")


@contextmanager
def s3_remote(place: Path) -> Iterator[Remote]:
    """An S3 bucket behind moto's server; the credentials come from the environment."""
    import boto3

    port, key, secret = _free_port(), "AKIAEXAMPLEOFTHELAB1", "s3-secret-of-the-lab-0123456789abcdef"
    with _served([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], port, place):
        url = f"http://127.0.0.1:{port}"
        client = boto3.client(
            "s3", endpoint_url=url, aws_access_key_id=key, aws_secret_access_key=secret, region_name="us-east-1"
        )
        client.create_bucket(Bucket="lab")
        yield Remote(
            "s3://lab/store",
            shared={"endpointurl": url, "region": "us-east-1"},
            environment={"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret},
            secrets=[key, secret],
        )


@contextmanager
def ssh_remote(place: Path) -> Iterator[Remote]:
    """A folder behind an OpenSSH server of our own with its own keys; the key's passphrase stands in DVC's local configuration."""
    port, passphrase = _free_port(), "ssh-passphrase-of-the-lab"
    for name, words in (("host", ""), ("user", passphrase)):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", words, "-f", str(place / name)], check=True)
    shutil.copy(place / "user.pub", place / "authorized")
    config = {
        "Port": port,
        "ListenAddress": "127.0.0.1",
        "HostKey": place / "host",
        "AuthorizedKeysFile": place / "authorized",
        "PidFile": "none",
        "StrictModes": "no",
        "UsePAM": "no",
        "PasswordAuthentication": "no",
        "PermitRootLogin": "yes",
        "Subsystem": "sftp internal-sftp",
    }
    (place / "sshd_config").write_text("".join(f"{key} {value}\n" for key, value in config.items()), encoding="utf-8")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd's own wish
    with _served([shutil.which("sshd") or "/usr/sbin/sshd", "-D", "-e", "-f", str(place / "sshd_config")], port, place):
        yield Remote(
            f"ssh://127.0.0.1:{port}{place}/remote",
            shared={"user": os.environ.get("USER") or "root"},
            local={"keyfile": str(place / "user"), "passphrase": passphrase},
            secrets=[passphrase],
        )
