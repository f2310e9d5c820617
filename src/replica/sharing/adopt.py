"""Adopting: published artifacts are fetched, verified file by file, and only then put where Snakemake finds them made."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from replica.assets import manifest
from replica.config.project import Project
from replica.errors import AssetError, nearest
from replica.files import atomic_path, plain_file, remove_leftovers, sha256_file
from replica.jobs.snakemake_records import NAME as RECORDS
from replica.jobs.snakemake_records import Records, other_input
from replica.plan import Plan
from replica.sharing import archive, checkout, checks, index
from replica.sharing.artifacts import Artifact, archive_path, artifacts_of, ledger_of
from replica.sharing.store import LOCK, Store

#: Archives are unpacked here first; on the disk of the results, so that files are moved and not copied.
STAGING = "results/.adopting"


@dataclass
class Adopted:
    """Outcome of a call of `adopt`."""

    taken: list[str] = field(default_factory=list)
    here: list[str] = field(default_factory=list)
    #: ids of the plan's artifacts that are not published
    unpublished: list[str] = field(default_factory=list)
    #: archives whose copy in the cache was damaged and which were fetched again
    renewed: list[str] = field(default_factory=list)


def adopt(project: Project, plan: Plan, papers: list[str], remote: str | None = None, replace: bool = False) -> Adopted:
    """Download the published artifacts of papers (of all enabled ones, with the ledger, when none is named).

    Every file of every artifact is verified first: against `published/index.json`, which git brought, against the artifact's own
    manifest, and runs against their parents' manifests. Files that are here already must equal the published ones; with `replace` they
    are overwritten. Then the files are moved into place with one modification time for all, and with Snakemake's records of their rules.

    Raises
    ------
    AssetError
        where no artifact is published, an archive is damaged, or a file here differs (with both hashes); no file was changed.
    RemoteError
        where the remote fails or lacks an archive; no file was changed.
    """
    root = Path(project.root)
    with checkout.alone(root, "adopt"):
        shutil.rmtree(root / STAGING, ignore_errors=True)  # of a call that was killed
        return _Adoption(root, project, plan, remote, replace).run(papers)


class _Adoption:
    """One call of `adopt`."""

    def __init__(self, root: Path, project: Project, plan: Plan, remote: str | None, replace: bool):
        self.root, self.project, self.plan, self.remote, self.replace = root, project, plan, remote, replace
        self.entries = index.read(root)
        self.records = Records(root)
        self.pinned: dict[str, str] = {}
        self.result = Adopted()

    def run(self, papers: list[str]) -> Adopted:
        wanted = self._wanted(papers)
        absent = {name: artifact for name, artifact in wanted.items() if not self._is_here(artifact)}
        self.result.here = sorted(set(wanted) - set(absent))
        if absent:
            with _staging(self.root) as staging:
                self._unpack(absent, staging)
                self._check(absent, wanted, staging)
                self._install(absent, wanted, staging)
            self._set_times(wanted)
        self.result.taken = sorted(absent)
        return self.result

    def _wanted(self, papers: list[str]) -> dict[str, Artifact]:
        """Return the plan's artifacts that are published."""
        named = papers or list(self.project.papers)
        planned = artifacts_of(self.project, self.plan, named)
        artifacts = {name: artifact for name, artifact in planned.items() if name in self.entries}
        self.result.unpublished = [
            name for name, a in planned.items() if name not in self.entries and a.missing(self.root)
        ]
        ledger = ledger_of(self.plan, self.project.papers)
        entry = self.entries.get(ledger.id)
        results = {f"papers/{self.plan.scale}/{paper}" for paper in self.project.papers}
        if not papers and entry and entry.papers == list(ledger.papers) and results <= set(artifacts):
            artifacts[ledger.id] = ledger
        self._refuse_unpublished(papers, artifacts)
        return artifacts

    def _refuse_unpublished(self, papers: list[str], artifacts: Mapping[str, Artifact]) -> None:
        """Raise AssetError for a named paper, or for all, without a published artifact at this scale."""
        published = {paper for name, e in self.entries.items() if f"/{self.plan.scale}/" in name for paper in e.papers}
        here = {
            paper for artifact in artifacts.values() if artifact.kind in ("run", "paper") for paper in artifact.papers
        }
        for paper in papers or ([] if here else self.project.papers):
            if paper not in here:
                raise AssetError(
                    f"nothing of '{paper}' is published at scale {self.plan.scale}{nearest(paper, published)}; "
                    "`git pull` may bring more"
                )

    def _is_here(self, artifact: Artifact) -> bool:
        """Return whether every published file is in place; AssetError for one that differs and may not be replaced."""
        entry = self.entries[artifact.id]
        folder = self.root / artifact.folder
        if entry.folder != artifact.folder:
            raise AssetError(
                f"{index.PATH}: {artifact.id} claims the folder {entry.folder}, its place is {artifact.folder}"
            )
        complete = True
        for name, sha256 in entry.files.items():
            if name == RECORDS:
                continue
            path = plain_file(folder, name)
            if not path.exists():
                complete = False
                continue
            actual = sha256_file(path)
            if actual != sha256 and not self.replace:
                raise AssetError(
                    f"{artifact.folder}/{name}: sha256 is {actual}, published is {sha256}; nothing was touched. Keep yours by leaving "
                    f"{artifact.folder} out, or take the published one with --replace"
                )
            complete = complete and actual == sha256
        return complete

    def _unpack(self, absent: Mapping[str, Artifact], staging: Path) -> None:
        store = Store(self.root, self.project, self.remote)
        paths = {name: artifact.archive for name, artifact in absent.items()}
        for name, path in paths.items():
            if not store.pinned(path):
                raise AssetError(
                    f"{index.PATH} names {name}, but {LOCK} does not pin {path}: half a commit; `git pull`, or publish again"
                )
        before = {path for path in paths.values() if store.cached(path)}
        store.fetch(paths.values())
        damaged = [name for name, path in paths.items() if self._archive_differs(store, name)]
        again = [paths[name] for name in damaged if paths[name] in before]
        if again:  # the copy in the cache was changed in place; the remote may hold a good one
            for path in again:
                store.drop(path)
            store.fetch(again)
            self.result.renewed = again
        for name in damaged:
            if actual := self._archive_differs(store, name):
                place = store.place(paths[name])
                store.drop(paths[name])
                raise AssetError(
                    f"{paths[name]}: sha256 is {actual}, published was {self.entries[name].sha256}: the remote '{store.remote.name}' holds "
                    f"another file or half of one ({place}); nothing was touched. Whoever published it removes that and calls "
                    "`replica publish` again"
                )
        for name, path in paths.items():
            target = staging / name
            target.mkdir(parents=True)
            archive.unpack(store.cached(path), self.entries[name].files, target)

    def _archive_differs(self, store: Store, name: str) -> str | None:
        """Return an archive's sha256 where it is not the published one."""
        actual = sha256_file(store.cached(archive_path(name)))
        return actual if actual != self.entries[name].sha256 else None

    def _check(self, absent: Mapping[str, Artifact], wanted: Mapping[str, Artifact], staging: Path) -> None:
        """Check unpacked files against their manifests, and runs against their parents."""
        pinned = {artifact.folder: self.entries[name].files.get(manifest.NAME) for name, artifact in wanted.items()}
        for name, artifact in absent.items():
            hashes = {key: value for key, value in self.entries[name].files.items() if key != RECORDS}
            checks.check(artifact, staging / name, hashes, artifact.archive)
            checks.parents_agree(artifact, staging / name, pinned.get, artifact.archive)

    def _install(self, absent: Mapping[str, Artifact], wanted: Mapping[str, Artifact], staging: Path) -> None:
        """Move the verified files into place; a folder's manifest comes last, so that a partial folder never looks whole."""
        for name, artifact in absent.items():
            files = [key for key in self.entries[name].files if key != RECORDS]
            record = staging / name / RECORDS
            text = record.read_bytes() if record.exists() else None
            when = self._time(text, wanted)
            folder = self.root / artifact.folder
            if self.replace:
                for key in set(artifact.files(self.root)) - set(files):
                    (folder / key).unlink()
            self.records.hold(artifact.folder, files)
            for key in sorted(files, key=lambda key: (key == manifest.NAME, key)):
                target = folder / key
                target.parent.mkdir(parents=True, exist_ok=True)
                remove_leftovers(target)
                _set_time(staging / name / key, when)
                _move(staging / name / key, target)
            self.records.restore(artifact.folder, files, text)

    def _time(self, text: bytes | None, wanted: Mapping[str, Artifact]) -> int:
        """Return the time of an artifact's files: one for all, or a second before it where its records name inputs that have changed."""
        if not self.pinned:
            facts = [self.entries[name] for name in wanted]
            self.pinned = {f"{entry.folder}/{key}": sha for entry in facts for key, sha in entry.files.items()}
        return archive.PUBLISHED_TIME - (text is not None and other_input(text, self.pinned.get) is not None)

    def _set_times(self, wanted: Mapping[str, Artifact]) -> None:
        """Set the time of published files that were here already too, so that no input is newer than its outputs."""
        for name in self.result.here:
            files = [key for key in self.entries[name].files if key != RECORDS]
            when = self._time(self.records.of(wanted[name].folder, files), wanted)
            for key in files:
                _set_time(self.root / wanted[name].folder / key, when)


def _set_time(path: Path, when: int = archive.PUBLISHED_TIME) -> None:
    os.utime(path, (when, when))


def _move(source: Path, target: Path) -> None:
    """Move a file into place in one step, also where results and assets are on different disks."""
    try:
        os.replace(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with atomic_path(target) as temporary:
            shutil.copy2(source, temporary)


@contextmanager
def _staging(root: Path) -> Iterator[Path]:
    """Yield an empty folder that is removed at the end."""
    parent = root / STAGING
    parent.mkdir(parents=True)
    try:
        yield Path(tempfile.mkdtemp(dir=parent))
    finally:
        shutil.rmtree(parent, ignore_errors=True)
