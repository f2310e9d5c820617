"""A small project, wheels, mirrors and safetensors files made on the spot for the tests of the retrieve stage."""

from __future__ import annotations

import base64
import hashlib
import json
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq

from replica.assets.rows import Content, RowHash
from replica.config.asset_schema import DatasetEntry, ModelEntry
from replica.config.settings import Settings

ALL_SOURCES = ["generated", "package", "wheel", "mirror", "hub"]
REVISION = "0123456789abcdef0123456789abcdef01234567"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def hash_rows(rows) -> Content:
    """Return the canonical content of rows."""
    running = RowHash()
    running.update(rows)
    return running.content()


def project(datasets=None, models=None, sources=ALL_SOURCES, root=Path()):
    return SimpleNamespace(
        datasets={name: DatasetEntry.model_validate(value) for name, value in (datasets or {}).items()},
        models={name: ModelEntry.model_validate(value) for name, value in (models or {}).items()},
        settings=Settings(papers=[], sources=sources),
        root=root,
    )


def dataset(sources: dict, splits: dict, **more) -> dict:
    return {"title": "t", "licence": "l", "redistribute": True, "sources": sources, "splits": splits, **more}


def wheel(folder: Path, name: str, members: dict[str, bytes], version: str = "1.0") -> Path:
    """Write a wheel that pip accepts."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = name.replace("-", "_")
    info = f"{stem}-{version}.dist-info"
    files = {
        **members,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    for path, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(data)}\n"
    path = folder / f"{stem}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, data in {**files, f"{info}/RECORD": (record + f"{info}/RECORD,,\n").encode()}.items():
            archive.writestr(member, data)
    return path


def only_wheels_of(monkeypatch, folder: Path) -> None:
    """Let pip see nothing but the wheels of one folder."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", folder.as_uri())  # a list with spaces between
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")


def mirror_split(root: Path, repo: str, name: str, rows: list[dict], **fact) -> Path:
    """Write a split's Parquet file into a mirror and its line into MANIFEST.json."""
    path = root / "datasets" / repo / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    manifest = root / "MANIFEST.json"
    value = json.loads(manifest.read_text(encoding="utf-8")) if manifest.exists() else {"splits": []}
    entry = {"path": path.relative_to(root).as_posix(), "rows": len(rows), "complete": True}
    value["splits"].append({**entry, "sha256": sha256(path.read_bytes()), "notes": "", **fact})
    manifest.write_text(json.dumps(value), encoding="utf-8")
    return path


def safetensors(values: bytes = b"\x00" * 16) -> bytes:
    """The bytes of a safetensors file with one float32 tensor, by the format's own description."""
    header = {"weight": {"dtype": "F32", "shape": [len(values) // 4], "data_offsets": [0, len(values)]}}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + values


def left_in(folder: Path) -> list[str]:
    """Names of what a folder holds; none where there is no folder."""
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []
