"""Retrieve a data set or model: ask the sources in order, check the content against its pins, write the folder."""

from __future__ import annotations

import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from replica import __version__
from replica.assets import hub, manifest, models
from replica.assets.datasets import READERS as DATASET_READERS
from replica.assets.licences import licence_of
from replica.assets.rows import Rows, write_parquet
from replica.assets.sources import BrokenOff, SourceUnavailable, alone, disk_errors
from replica.errors import AssetError, ConfigError, nearest
from replica.files import atomic_folder
from replica.paths import Layout

if TYPE_CHECKING:
    from replica.config.asset_schema import DatasetEntry, ModelEntry, Sources

NOT_ON_HUB = {"hub": "the hub does not have this content, a mirror alone does (`on_hub: false`)"}


def retrieve_dataset(project: Any, name: str, out_folder: Path | str, splits: list[str] | None = None) -> Path:
    """Make the canonical folder of a data set: `{split}.parquet` each and `manifest.json`.

    Parameters
    ----------
    project
        has `datasets` (the registry) and `settings.sources` (the order in which sources are asked).
    name
        name in the registry.
    out_folder
        folder that is made, or replaced, in one step: it is whole or not there.
    splits
        the splits wanted; all of the registry's when absent. A source must have every one of them.

    Raises
    ------
    AssetError
        where no source has it (one message with what each said), a source brings other rows than the registry pins
        (with both hashes), a file is truncated or corrupt, or the disk is full.
    """
    out = Path(out_folder)
    entry: DatasetEntry = _entry(project.datasets, name, "data set", "config/datasets.yaml")
    for split in splits or ():
        if split not in entry.splits:
            raise AssetError(f"data set {name!r} has no split {split!r}{nearest(split, entry.splits)}")
    wanted = [split for split in entry.splits if splits is None or split in splits]
    what = f"data set {name!r}"

    def attempt(kind: str, scratch: Path) -> None:
        rows, source, versions = DATASET_READERS[kind](entry, wanted, scratch)
        with atomic_folder(out) as folder:
            content = {split: _write(rows, split, folder, entry, f"{what} from {kind}") for split in wanted}
            facts = {"asset": "dataset", "name": name, "title": entry.title, "licence": entry.licence}
            facts |= {"redistribute": entry.redistribute, "splits": content, "versions": _versions(versions)}
            manifest.write(folder, **facts, source={"kind": kind, **source})

    kept = _kept(project.root, "datasets", name, entry.sources)
    _from_first(what, entry.sources, project.settings.sources, out, attempt, kept, {} if entry.on_hub else NOT_ON_HUB)
    return out


def retrieve_model(project: Any, name: str, out_folder: Path | str) -> Path:
    """Make the canonical folder of a model: `model.safetensors`, `config.json`, tokenizer files and `manifest.json`.

    A model without sources is initialised at random where it is used: its folder holds `config.json` alone.

    Raises
    ------
    AssetError
        as for `retrieve_dataset`; also where weights are not in safetensors, a repository has code of its own, or the
        configuration that comes with the weights contradicts the registry.
    """
    out = Path(out_folder)
    entry: ModelEntry = _entry(project.models, name, "model", "config/models.yaml")
    what = f"model {name!r}"

    def attempt(kind: str, scratch: Path) -> None:
        with atomic_folder(out) as folder:
            source, versions = models.READERS[kind](entry, folder, scratch)
            models.check(entry, folder, f"{what} from {kind}")
            _record_model(name, entry, folder, {"kind": kind, **source}, versions)

    if entry.sources is None:
        with disk_errors(what, out), atomic_folder(out) as folder:
            models.write_config(entry, folder)
            _record_model(name, entry, folder, {"kind": "none: random initialisation"}, {})
        return out
    kept = _kept(project.root, "models", name, entry.sources)
    _from_first(what, entry.sources, project.settings.sources, out, attempt, kept)
    return out


def _from_first(
    what: str,
    sources: Sources,
    order: list[str],
    out: Path,
    attempt: Callable[[str, Path], None],
    kept: Path | None,
    refused: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Let the sources try in order until one has it; what is wrong with one that has it is raised at once.

    `kept` is the folder of the hub's download, which survives a broken connection; `refused` says of sources why they are not asked.
    """
    said = []
    for kind in order:
        if not (sources.hub if kind == "mirror" else getattr(sources, kind)):
            continue
        with disk_errors(f"{what} from {kind}", out):
            out.parent.mkdir(parents=True, exist_ok=True)
            try:
                if kind in refused:
                    raise SourceUnavailable(refused[kind])
                if kind == "hub":
                    hub.ready(sources.hub)
                with _workspace(out, kind, kept if kind == "hub" else None) as scratch:
                    attempt(kind, scratch)
            except SourceUnavailable as error:
                said.append(f"{kind}: {error}")
            else:
                return
    if not said:
        registered = ", ".join(kind for kind in type(sources).model_fields if getattr(sources, kind))
        raise AssetError(
            f"{what}: comes from {registered}, but `sources` in config/config.yaml allows {', '.join(order) or 'none'}"
        )
    raise AssetError(f"{what}: no source has it: " + "; ".join(said))


def _kept(root: Path, registry: str, name: str, sources: Sources) -> Path | None:
    """Return the folder in which a download from the hub goes on after it broke off: one for each asset and commit."""
    if sources.hub is None or sources.hub.revision is None:
        return None
    return Layout(root).state / "downloads" / f"{registry}-{name}-{sources.hub.revision[:12]}"


@contextmanager
def _workspace(out: Path, kind: str, kept: Path | None) -> Iterator[Path]:
    """Give a folder to download into: a temporary one beside `out`, or `kept`, which stays where the connection broke off."""
    if kept is None:
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.{kind}.", dir=out.parent) as scratch:
            yield Path(scratch)
        return
    with alone(kept.with_name(f"{kept.name}.lock")):
        try:
            yield kept
        except (SourceUnavailable, BrokenOff):
            raise
        except Exception:  # what arrived is not to be trusted, or has no room
            shutil.rmtree(kept, ignore_errors=True)
            raise
        shutil.rmtree(kept, ignore_errors=True)


def _write(rows: dict[str, Rows], split: str, folder: Path, entry: DatasetEntry, where: str) -> dict[str, Any]:
    if split not in rows:
        raise AssetError(f"{where}: brings no split {split!r}; it has {', '.join(sorted(rows))}")
    try:
        content = write_parquet(rows[split], folder / f"{split}.parquet")
    except pa.ArrowException as error:
        raise AssetError(f"{where}: split {split!r} cannot be written ({error})") from None
    pinned = entry.splits[split]
    if pinned is not None and (content.rows, content.sha256) != (pinned.rows, pinned.sha256):
        raise AssetError(
            f"{where}: split {split!r} has other rows than the registry pins: {content.rows} rows with sha256 "
            f"{content.sha256}, pinned {pinned.rows} rows with sha256 {pinned.sha256}; use another source, "
            "or correct config/datasets.yaml"
        )
    return {"rows": content.rows, "sha256": content.sha256, "pinned": pinned is not None}


def _record_model(name: str, entry: ModelEntry, folder: Path, source: dict[str, Any], versions: dict[str, str]) -> None:
    facts = {"asset": "model", "name": name, "title": entry.title, "licence": licence_of(entry)}
    facts |= {"architecture": entry.architecture, "versions": _versions(versions)}
    manifest.write(folder, **facts, source=source)


def _versions(more: dict[str, str]) -> dict[str, str]:
    return {"replica": __version__, "python": platform.python_version(), "pyarrow": pa.__version__, **more}


def _entry(registry: dict[str, Any], name: str, what: str, file: str) -> Any:
    if name not in registry:
        raise ConfigError(f"{file}: no {what} {name!r}{nearest(name, registry)}")
    return registry[name]
