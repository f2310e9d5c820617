"""Publishing: finished artifacts are verified, packed, pinned in git and pushed to a DVC remote."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from replica.assets import manifest
from replica.claims.compare import Row
from replica.config.project import Project
from replica.errors import AssetError, ConfigError, ReplicaError, nearest
from replica.files import atomic_path, plain_file, read_json, remove_leftovers, sha256_file, write_json
from replica.jobs.snakemake_records import NAME as RECORDS
from replica.jobs.snakemake_records import Records, other_input
from replica.paths import PREDICTIONS
from replica.plan import Plan
from replica.sharing import archive, checkout, checks, index
from replica.sharing.artifacts import Artifact, artifacts_of, ledger_of
from replica.sharing.store import LOCK, PIPELINE, Store, without_published
from replica.sharing.verify import check_ledger, check_paper, check_structural

#: Sizes and times of the files that earlier calls read, so that an unchanged artifact is not read again. Losing it costs time only.
MEMORY = ".dvc/tmp/replica-published.json"
#: Files that publishing writes and commits.
WRITTEN = (index.PATH, PIPELINE, LOCK)


@dataclass
class Published:
    """Outcome of a call of `publish`."""

    new: list[str] = field(default_factory=list)
    same: list[str] = field(default_factory=list)
    #: artifact → why it was left out
    left_out: dict[str, str] = field(default_factory=dict)
    #: files and links in the folders of what was published that nothing names
    strays: list[str] = field(default_factory=list)
    remote: str = ""
    commit: str | None = None


def publish(project: Project, plan: Plan, papers: list[str], runs: list[str], remote: str | None = None) -> Published:
    """Publish the finished artifacts of papers and runs with their ancestors; of every enabled paper and the ledger if neither is named.

    An artifact's files are those that its manifest, the run's evaluation or its paper names; no link is followed. Every artifact is
    verified before a file is written; archives, `published/index.json`, `dvc.yaml` and `dvc.lock` are written before
    the push; the commit comes last. After an interruption the same call continues, and a second call changes no file.

    Raises
    ------
    ReplicaError
        where the checkout is not ready (another call or Snakemake at work, git without identity, no remote), an artifact is damaged
        (all of them are named, no file is written), or the remote fails (no commit is made; call again).
    """
    root = Path(project.root)
    with checkout.alone(root, "publish"):
        checkout.ready_to_commit(root)
        store = Store(root, project, remote)
        _refuse_foreign_changes(root)
        return _Publication(root, project, plan, store).run(_chosen(project, plan, papers, runs))


def _chosen(project: Project, plan: Plan, papers: list[str], runs: list[str]) -> dict[str, Artifact]:
    everything = not papers and not runs
    artifacts = artifacts_of(project, plan, list(project.papers) if everything else papers, runs)
    if everything:
        ledger = ledger_of(plan, project.papers)
        artifacts[ledger.id] = ledger
    return artifacts


def _refuse_foreign_changes(root: Path) -> None:
    """Raise CheckoutError where dvc.yaml has uncommitted changes that the publication's commit would include."""
    path = root / PIPELINE
    text = path.read_text(encoding="utf-8") if path.exists() else None
    before = checkout.committed(root, PIPELINE)
    if before is not None and without_published(text) != without_published(before):
        raise checkout.CheckoutError(
            f"{PIPELINE}: has changes that are not committed; commit them first (publishing commits this file)"
        )


class _Publication:
    """One call of `publish`."""

    def __init__(self, root: Path, project: Project, plan: Plan, store: Store):
        self.root, self.project, self.plan, self.store = root, project, plan, store
        self.records = Records(root)
        self.entries = index.read(root)
        self.memory = _read_memory(root)
        self.hashed: dict[str, str | None] = {}
        self.computed: dict[str, list[Row]] = {}
        self.result = Published(remote=store.remote.name)

    def run(self, chosen: dict[str, Artifact]) -> Published:
        ready = {name: artifact for name, artifact in chosen.items() if self._ready(artifact)}
        if not ready:
            reason = next(iter(self.result.left_out.values()), "nothing of it was made yet")
            raise ReplicaError(f"nothing to publish: {reason}")
        changed = self._verified([artifact for artifact in ready.values() if not self._unchanged(artifact)])
        for artifact in ready.values():
            if artifact.id not in changed:
                self._keep(artifact)
        self.result.strays = [f"{a.folder}/{name}" for a in ready.values() for name in a.strays(self.root)]
        self._pack(changed)
        held = [name for name, artifact in ready.items() if not self._may_go(artifact, "a public remote", public=True)]
        self.store.track(ready, self.result.new, held)
        if self.result.new:
            index.write(self.root, self.entries)
        self._remember(ready)
        self.store.push([artifact.archive for artifact in ready.values()])
        self.result.commit = checkout.commit(self.root, WRITTEN, self._message())
        return self.result

    # artifacts that are ready

    def _ready(self, artifact: Artifact) -> bool:
        """Return whether an artifact is finished and may go to the remote; reasons against it are noted in `left_out`."""
        missing = artifact.missing(self.root)
        if missing and not artifact.files(self.root) and not artifact.strays(self.root):
            return False
        if manifest.NAME in missing:
            raise AssetError(
                f"{artifact.folder}/{manifest.NAME}: missing, though other files are there: nothing says what they should be; "
                "remove the folder and make it again"
            )
        if missing:
            self.result.left_out[artifact.id] = f"{artifact.folder}/{missing[0]} is not here"
            return False
        if artifact.kind in ("paper", "ledger") and (older := self._stale(artifact)):
            self.result.left_out[artifact.id] = (
                f"{artifact.folder} was made before {older} changed; run snakemake first"
            )
            return False
        if (
            artifact.kind in ("paper", "ledger")
            and not self._unchanged(artifact)
            and (reason := self._differs(artifact))
        ):
            self.result.left_out[artifact.id] = reason
            return False
        remote = self.store.remote
        if reason := self._refusal(artifact, remote.name, remote.public):
            self.result.left_out[artifact.id] = reason
            return False
        return True

    def _stale(self, artifact: Artifact) -> str | None:
        """Return an input of the results that has changed since."""
        text = self.records.of(artifact.folder, artifact.files(self.root))
        return other_input(text, self._sha256_of) if text else None

    def _differs(self, artifact: Artifact) -> str | None:
        """Return where claims, tables or ledger are not what the stored results give when they are computed again."""
        try:
            for paper in artifact.papers:
                if paper not in self.computed:
                    self.computed[paper] = check_paper(self.project, self.plan, paper, self.root / "results")
            if artifact.kind == "ledger":
                check_ledger(self.root / artifact.folder, self.computed)
        except ReplicaError as error:
            return str(error)
        return None

    def _sha256_of(self, path: str) -> str | None:
        if path not in self.hashed:
            file = self.root / path
            self.hashed[path] = sha256_file(file) if file.is_file() else None
        return self.hashed[path]

    def _refusal(self, artifact: Artifact, remote: str, public: bool) -> str | None:
        from replica.assets.licences import check_redistribution

        try:
            check_redistribution(self.project, artifact.datasets, remote, public, models=artifact.models)
        except ReplicaError as error:
            return str(error)
        return None

    def _may_go(self, artifact: Artifact, remote: str, public: bool) -> bool:
        return self._refusal(artifact, remote, public) is None

    def _names(self, artifact: Artifact) -> list[str]:
        """Return the files to pack: without predictions that repeat texts of a data set that may not be redistributed."""
        from replica.assets.licences import check_redistribution

        names = artifact.files(self.root)
        try:
            check_redistribution(self.project, artifact.quoted, "any", public=True)
        except ReplicaError:
            names = [name for name in names if name != PREDICTIONS]
        return names

    def _state(self, artifact: Artifact) -> list[list[Any]]:
        """Return names, sizes and times of an artifact's files; equal ones mean that it is unchanged."""
        state = []
        for name in self._names(artifact):
            stat = os.lstat(self.root / artifact.folder / name)
            state.append([name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino])
        return state

    def _unchanged(self, artifact: Artifact) -> bool:
        seen = self.memory["seen"].get(artifact.id)
        entry = self.entries.get(artifact.id)
        if entry is None or not seen or not self.store.pinned(artifact.archive):
            return False
        return (
            seen["sha256"] == entry.sha256
            and seen["files"] == self._state(artifact)
            and self._same_records(artifact, entry)
        )

    def _same_records(self, artifact: Artifact, entry: index.Entry) -> bool:
        """Return whether Snakemake's records equal the published ones, or there are none here."""
        from hashlib import sha256

        text = self.records.of(artifact.folder, entry.files)
        return text is None or sha256(text).hexdigest() == entry.files.get(RECORDS)

    # verified, then packed

    def _verified(self, artifacts: list[Artifact]) -> dict[str, tuple[Artifact, dict[str, str]]]:
        """Return the artifacts with the sha256 of their files; raises for all that are damaged at once."""
        wrong: list[str] = []
        verified: dict[str, tuple[Artifact, dict[str, str]]] = {}
        for artifact in artifacts:
            folder = self.root / artifact.folder
            try:
                for name in artifact.files(self.root):
                    plain_file(folder, name)
                hashes = checks.hashes(self.root, artifact, self._names(artifact))
                checks.check(artifact, folder, hashes, artifact.folder)
                checks.parents_agree(artifact, folder, self._manifest_of, artifact.folder)
                if artifact.kind == "structural":
                    check_structural(self.project, artifact.papers[0], self.root / "results")
                if card := self._write_card(artifact):
                    hashes[card.name] = sha256_file(card)
                verified[artifact.id] = (artifact, hashes)
            except ReplicaError as error:
                wrong.append(str(error))
        if wrong:
            more = f" ({len(wrong) - 1} more: {'; '.join(wrong[1:])})" if wrong[1:] else ""
            raise AssetError(f"nothing was published, because files are damaged: {wrong[0]}{more}")
        return verified

    def _write_card(self, artifact: Artifact) -> Path | None:
        """Write or renew the model card of a whole run."""
        if artifact.kind != "run" or artifact.type != "model":
            return None
        from replica.sharing.cards import write_card

        folder = self.root / artifact.folder
        return write_card(folder, manifest.read(folder), self.project)

    def _manifest_of(self, folder: str) -> str | None:
        return self._sha256_of(f"{folder}/{manifest.NAME}")

    def _pack(self, changed: dict[str, tuple[Artifact, dict[str, str]]]) -> None:
        """Write the archives whose content differs from the published one, and their entries."""
        for name, (artifact, hashes) in changed.items():
            entry = self.entries.get(name)
            content = {key: value for key, value in entry.files.items() if key != RECORDS} if entry else None
            if content == hashes and self._same_records(artifact, entry) and self._has_archive(artifact, entry):
                self.result.same.append(name)
            else:
                self._pack_one(artifact, hashes)

    def _pack_one(self, artifact: Artifact, hashes: dict[str, str]) -> None:
        text = self.records.of(artifact.folder, hashes)
        path = self.root / artifact.archive
        remove_leftovers(path)
        with atomic_path(path) as temporary:
            files = archive.pack(self.root / artifact.folder, hashes, {RECORDS: text} if text else {}, temporary)
            moved = [key for key in hashes if files[key] != hashes[key]]
            if moved:
                raise AssetError(
                    f"{artifact.folder}/{moved[0]}: changed while it was being published; call again when nothing writes it"
                )
            facts = {"sha256": sha256_file(temporary), "bytes": temporary.stat().st_size}
        self.entries[artifact.id] = index.Entry(
            kind=artifact.kind, folder=artifact.folder, papers=list(artifact.papers), files=files, **facts
        )
        self.result.new.append(artifact.id)

    def _has_archive(self, artifact: Artifact, entry: index.Entry) -> bool:
        """Return whether DVC's cache holds an archive; AssetError where its copy differs from the published one."""
        path = self.store.cached(artifact.archive)
        if path is None:
            return False
        if self.memory["seen"].get(artifact.id, {}).get("cached") != _times(path):
            actual = sha256_file(path)
            if actual != entry.sha256:
                raise AssetError(
                    f"{path}: DVC's copy of {artifact.archive} has sha256 {actual}, published was {entry.sha256}: it was changed in "
                    "place (through a hard link?); nothing was pushed; remove it and call again"
                )
        return True

    def _keep(self, artifact: Artifact) -> None:
        """Note that an artifact is published as it is; an archive that is not in the cache any more is packed again."""
        if self._has_archive(artifact, self.entries[artifact.id]):
            self.result.same.append(artifact.id)
        else:
            self._pack_one(artifact, checks.hashes(self.root, artifact, self._names(artifact)))

    def _remember(self, ready: dict[str, Artifact]) -> None:
        for name, artifact in ready.items():
            path = self.store.cached(artifact.archive)
            if path is not None:
                facts = {"sha256": self.entries[name].sha256, "files": self._state(artifact), "cached": _times(path)}
                self.memory["seen"][name] = facts
        write_json(self.root / MEMORY, self.memory)

    def _message(self) -> str:
        new = self.result.new
        title = f"Publish {len(new)} artifacts" if len(new) != 1 else f"Publish {new[0]}"
        return (
            f"{title} to {self.store.remote.name}" if new else f"Publish to {self.store.remote.name}: entries renewed"
        )


def _times(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def _read_memory(root: Path) -> dict[str, Any]:
    """Read the memory of earlier calls; empty for a partial file or one of another version."""
    try:
        value = read_json(root / MEMORY)
        if isinstance(value["seen"], dict):
            return value
    except (OSError, ReplicaError, KeyError, TypeError):
        pass
    return {"seen": {}}


def names(project: Project, plan: Plan, named: Iterable[str]) -> tuple[list[str], list[str]]:
    """Sort names into papers and ids of runs; ConfigError with the nearest name for one that is neither."""
    papers, runs = [], []
    for name in named:
        fitting = [run.id for run in plan.runs.values() if run.seeds and (name in run.names or name in run.id)]
        if name in project.papers:
            papers.append(name)
        elif name in plan.runs:
            runs.append(name)
        elif len(fitting) == 1:
            runs.append(fitting[0])
        elif fitting:
            raise ConfigError(
                f"'{name}' fits {len(fitting)} runs: {', '.join(sorted(fitting)[:4])}, …; give a whole id"
            )
        else:
            known = [*project.paper_folders, *plan.runs]
            raise ConfigError(f"no paper and no run '{name}' at scale {plan.scale}{nearest(name, known)}")
    return papers, runs
