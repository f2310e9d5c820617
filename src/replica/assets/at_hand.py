"""Data sets that can be read without a network: a retrieved folder, else a local source; and a mark of their state.

Measurements count rows through this module; only the retrieve stage uses a network.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from replica.assets.sources import MIRROR_VARIABLE
from replica.errors import AssetError
from replica.paths import Layout

if TYPE_CHECKING:
    from replica.assets.rows import Content, Rows
    from replica.config.project import Project

#: Sources that may be read where they are; the others are asked by the retrieve stage.
LOCAL = ("generated", "package", "mirror")


def read_at_hand(project: Project, name: str, splits: list[str], scratch: Path) -> tuple[dict[str, Rows], str]:
    """Return the wanted splits of a registered data set and where they come from, e.g. `mirror boun-tabi/squad_tr`.

    The rows are checked against the registry's pins (for a retrieved folder without pins, against its manifest) when the
    last row of a split was read: an AssetError is raised where they differ.

    Raises
    ------
    AssetError
        where neither the retrieved folder nor a local source has every split whole; the message gives the reason of
        each and how to retrieve the data set.
    """
    entry = project.dataset(name)
    folder = Layout(project.root).dataset(name)
    if (folder / "manifest.json").is_file():
        return _retrieved(project, name, splits, folder)
    from replica.assets.datasets import READERS

    reasons = []
    for kind in project.settings.sources:
        if not (entry.sources.hub if kind == "mirror" else getattr(entry.sources, kind)):
            continue
        if kind == "hub" and entry.sources.hub.revision is None:
            reasons.append(f"hub: {entry.sources.hub.repo} has no pinned revision")
            continue
        if kind not in LOCAL:
            reasons.append(f"{kind}: not retrieved (`snakemake assets/datasets/{name}/manifest.json`)")
            continue
        try:
            rows, source, _ = READERS[kind](entry, splits, scratch)
        except AssetError as error:
            reasons.append(f"{kind}: {error}")
            continue
        pins = {split: entry.splits[split] for split in splits}
        label = f"{kind} {source['repo']}" if "repo" in source else kind
        return {split: _checked(rows[split], pins[split], f"{label}, split {split!r}") for split in splits}, label
    raise AssetError(
        f"{name}: " + ("; ".join(reasons) or "none of its sources is among `sources` in config/config.yaml")
    )


def presence(project: Project, name: str) -> str:
    """Return a short mark that changes when a data set's files appear, change or go, so that its rows are counted again.

    Reads names and sizes only, and loads no library: a Snakefile may ask for it.
    """
    retrieved = Layout(project.root).dataset(name) / "manifest.json"
    if retrieved.is_file():
        return hashlib.sha256(retrieved.read_bytes()).hexdigest()[:12]
    hub, top = project.dataset(name).sources.hub, os.environ.get(MIRROR_VARIABLE, "")
    if hub is None or not top or "mirror" not in project.settings.sources:
        return "absent"
    folder = Path(top) / "datasets" / hub.repo
    files = sorted((path.relative_to(folder).as_posix(), path.stat().st_size) for path in folder.rglob("*.parquet"))
    return hashlib.sha256(repr(files).encode()).hexdigest()[:12] if files else "absent"


def _retrieved(project: Project, name: str, splits: list[str], folder: Path) -> tuple[dict[str, Rows], str]:
    from replica.assets import manifest
    from replica.assets.rows import Content, Rows

    facts = manifest.read(folder)
    stored, came = facts.get("splits", {}), facts.get("source", {}).get("revision")
    hub = project.dataset(name).sources.hub
    if came and hub is not None and hub.revision not in (None, came):
        raise AssetError(
            f"wrong revision: {name} was retrieved at {came}, config/hub.lock.yaml says {hub.revision}; retrieve it again "
            f"(`snakemake assets/datasets/{name}/manifest.json`)"
        )
    rows_by_split = {}
    for split in splits:
        if split not in stored or not (folder / f"{split}.parquet").is_file():
            raise AssetError(
                f"the retrieved folder of {name} lacks split {split!r}; retrieve it again "
                f"(`snakemake assets/datasets/{name}/manifest.json`)"
            )
        pin = project.dataset(name).splits[split] or Content(stored[split]["rows"], stored[split]["sha256"])
        rows = Rows.from_parquet([folder / f"{split}.parquet"], f"retrieved {name}")
        rows_by_split[split] = _checked(rows, pin, f"the retrieved {name}, split {split!r}")
    return rows_by_split, f"retrieved {name}"


def _checked(rows: Rows, pin: Any, where: str) -> Rows:
    """Return rows that raise AssetError after the last one where they are not those of the pin; unpinned as they are."""
    if pin is None:
        return rows
    from replica.assets.rows import RowHash, Rows

    def batches() -> Iterator[Any]:
        running = RowHash()
        for batch in rows.batches():
            running.update(batch.to_pylist())
            yield batch
        content: Content = running.content()
        if (content.rows, content.sha256) != (pin.rows, pin.sha256):
            raise AssetError(
                f"{where} has other rows than the registry pins: {content.rows} rows with sha256 {content.sha256[:12]}…, "
                f"pinned {pin.rows} rows with sha256 {pin.sha256[:12]}…"
            )

    return Rows(rows.schema, batches)
