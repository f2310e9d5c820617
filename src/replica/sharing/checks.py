"""Checks of an artifact's files: they match its manifest, belong to it, and are of kinds that load safely."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from replica.assets import manifest
from replica.claims.run_files import check_file
from replica.errors import AssetError
from replica.files import read_result, sha256_file
from replica.paths import MEASURES, METRICS, Layout
from replica.sharing.artifacts import Artifact

#: Kinds of files that run code when they are loaded; they are neither published nor adopted.
UNSAFE = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz", ".h5", ".py", ".so")
#: First bytes of Python's pickles and torch's archives, whatever their names.
PICKLED = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")


def hashes(root: Path, artifact: Artifact, names: list[str]) -> dict[str, str]:
    """Return the sha256 of files of an artifact's folder."""
    return {name: sha256_file(root / artifact.folder / name) for name in names}


def check(artifact: Artifact, folder: Path, hashes: Mapping[str, str], where: str = "") -> None:
    """Check that the files of `folder`, whose sha256 were `hashes`, are a whole and unchanged artifact.

    `where` names the folder in messages, when it is a passing one.

    Raises AssetError naming the file: one that the manifest names and that is missing or has another sha256 (with both), a manifest
    that is missing or of another run, truncated Parquet, weights that are not safetensors.
    """
    shown = where or str(folder)
    for name in hashes:
        _safe(folder / name, f"{shown}/{name}")
    if artifact.kind in ("run", "dataset", "model", "prepared"):
        facts = _manifest(artifact, folder, shown, hashes)
        _identity(artifact, facts, folder, shown)
    for name in artifact.needs:
        if not (folder / name).exists():
            raise AssetError(f"{shown}/{name}: missing, and without it the artifact is not whole")


def _manifest(artifact: Artifact, folder: Path, shown: str, hashes: Mapping[str, str]) -> dict[str, Any]:
    if manifest.NAME not in hashes:
        raise AssetError(f"{shown}/{manifest.NAME}: missing, so nothing says what {shown} should hold; make it again")
    facts = manifest.read(folder)
    for name, sha256 in ((name, fact["sha256"]) for name, fact in facts["files"].items()):
        if name not in hashes:
            raise AssetError(f"{shown}/{name}: missing, though {manifest.NAME} names it")
        if hashes[name] != sha256:
            raise AssetError(
                f"{shown}/{name}: sha256 is {hashes[name]}, {manifest.NAME} says {sha256}: the file changed or is corrupt"
            )
    return facts


def _identity(artifact: Artifact, facts: dict[str, Any], folder: Path, shown: str) -> None:
    """Refuse the files of another artifact in this one's place."""
    last = Path(artifact.folder).name
    if artifact.kind in ("dataset", "model", "prepared") and facts.get("name") != last:
        raise AssetError(f"{shown}/{manifest.NAME}: is that of '{facts.get('name')}', not of '{last}'")
    if artifact.kind != "run":
        return
    for name in (manifest.NAME, METRICS, MEASURES):
        if (folder / name).exists():
            content = read_result(folder / name, ["run", "seed"])
            check_file(folder / name, content, artifact.folder)


def parents_agree(artifact: Artifact, folder: Path, manifest_of: Callable[[str], str | None], where: str = "") -> None:
    """Check that a run was made from the parents that are stored with it.

    `manifest_of` gives the sha256 of the manifest in a parent's folder (below the root), or None where that is not known.
    """
    if artifact.kind != "run":
        return
    scale = Path(artifact.folder).parts[1]
    for role, parent in manifest.read(folder)["parents"].items():
        place = str(Layout().run(scale, parent["run"], parent["seed"]))
        actual = manifest_of(place)
        if actual is not None and actual != parent["manifest"]:
            raise AssetError(
                f"{where or folder}/{manifest.NAME}: was made from a {role} whose manifest has sha256 {parent['manifest']}, but "
                f"{place}/{manifest.NAME} has {actual}: the {role} was made again since; make this run again too"
            )


def _safe(path: Path, shown: str) -> None:
    if path.suffix in UNSAFE:
        raise AssetError(
            f"{shown}: {path.suffix} files may run code when loaded; weights are safetensors, tables are parquet"
        )
    try:
        if path.suffix == ".safetensors":
            _read_safetensors(path)
        elif path.suffix == ".parquet":
            _read_parquet(path)
    except (OSError, ValueError) as error:
        with open(path, "rb") as handle:
            pickled = handle.read(4).startswith(PICKLED)
        if pickled:
            raise AssetError(
                f"{shown}: holds a pickle, not what its name says; it would run code when loaded"
            ) from None
        raise AssetError(f"{shown}: truncated or no {path.suffix[1:]} file ({error})") from None


def _read_safetensors(path: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as handle:
            handle.keys()
    except SafetensorError as error:
        raise ValueError(error) from None


def _read_parquet(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        pq.ParquetFile(path).close()
    except pa.ArrowException as error:
        raise ValueError(error) from None
