"""Retrieve a data set or model: ask the sources in order, check the content against its pins, write the folder."""

from __future__ import annotations

import platform
import shutil
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
from replica.files import atomic_folder, scratch_folder
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
        where no source has it (the message gives each one's reason), a source brings other rows than the registry pins
        (with both hashes), a file is truncated or corrupt, or the disk is full.
    """
    out = Path(out_folder)
    entry: DatasetEntry = _entry(project.datasets, name, "data set", "config/datasets.yaml")
    for split in splits or ():
        if split not in entry.splits:
            raise AssetError(f"data set {name!r} has no split {split!r}{nearest(split, entry.splits)}")
    wanted = [split for split in entry.splits if splits is None or split in splits]
    label = f"data set {name!r}"

    def attempt(kind: str, scratch: Path) -> None:
        rows, source, versions = DATASET_READERS[kind](entry, wanted, scratch)
        with atomic_folder(out) as folder:
            content = {split: _write(rows, split, folder, entry, f"{label} from {kind}") for split in wanted}
            facts = {"asset": "dataset", "name": name, "title": entry.title, "licence": entry.licence}
            facts |= {"redistribute": entry.redistribute, "splits": content, "versions": _versions(versions)}
            manifest.write(folder, **facts, source={"kind": kind, **source})

    downloads = _downloads(project.root, "datasets", name, entry.sources)
    _from_first(
        label, entry.sources, project.settings.sources, out, attempt, downloads, {} if entry.on_hub else NOT_ON_HUB
    )
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
    label = f"model {name!r}"

    def attempt(kind: str, scratch: Path) -> None:
        with atomic_folder(out) as folder:
            source, versions = models.READERS[kind](entry, folder, scratch)
            models.check(entry, folder, f"{label} from {kind}")
            _record_model(name, entry, folder, {"kind": kind, **source}, versions)

    if entry.sources is None:
        with disk_errors(label, out), atomic_folder(out) as folder:
            models.write_config(entry, folder)
            _record_model(name, entry, folder, {"kind": "none: random initialisation"}, {})
        return out
    downloads = _downloads(project.root, "models", name, entry.sources)
    _from_first(label, entry.sources, project.settings.sources, out, attempt, downloads)
    return out


def _from_first(
    label: str,
    sources: Sources,
    order: list[str],
    out: Path,
    attempt: Callable[[str, Path], None],
    downloads: Path | None,
    refused: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Try the sources in order until one has the asset; an error in its content is raised at once.

    `downloads` is the folder of the hub's download, which survives a broken connection; `refused` gives the reasons why sources are
    not tried.
    """
    reasons = []
    for kind in order:
        if not (sources.hub if kind == "mirror" else getattr(sources, kind)):
            continue
        with disk_errors(f"{label} from {kind}", out):
            out.parent.mkdir(parents=True, exist_ok=True)
            try:
                if kind in refused:
                    raise SourceUnavailable(refused[kind])
                if kind == "hub":
                    hub.ready(sources.hub)
                with _workspace(out, downloads if kind == "hub" else None) as scratch:
                    attempt(kind, scratch)
            except SourceUnavailable as error:
                reasons.append(f"{kind}: {error}")
            else:
                return
    if not reasons:
        registered = ", ".join(kind for kind in type(sources).model_fields if getattr(sources, kind))
        raise AssetError(
            f"{label}: comes from {registered}, but `sources` in config/config.yaml allows {', '.join(order) or 'none'}"
        )
    raise AssetError(f"{label}: no source has it: " + "; ".join(reasons))


def _downloads(root: Path, registry: str, name: str, sources: Sources) -> Path | None:
    """Return the folder in which a download from the hub goes on after it broke off: one for each asset and commit."""
    if sources.hub is None or sources.hub.revision is None:
        return None
    return Layout(root).state / "downloads" / f"{registry}-{name}-{sources.hub.revision[:12]}"


@contextmanager
def _workspace(out: Path, downloads: Path | None) -> Iterator[Path]:
    """Yield a folder to download into: a temporary one next to `out`, or `downloads`, which stays if the connection broke."""
    if downloads is None:
        with scratch_folder(out) as scratch:
            yield scratch
        return
    with alone(downloads.with_name(f"{downloads.name}.lock")):
        try:
            yield downloads
        except (SourceUnavailable, BrokenOff):
            raise
        except Exception:  # the files are not to be trusted, or have no room
            shutil.rmtree(downloads, ignore_errors=True)
            raise
        shutil.rmtree(downloads, ignore_errors=True)


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


def _entry(registry: dict[str, Any], name: str, label: str, file: str) -> Any:
    if name not in registry:
        raise ConfigError(f"{file}: no {label} {name!r}{nearest(name, registry)}")
    return registry[name]
