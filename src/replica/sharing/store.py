"""DVC: archives are outputs of one frozen stage in dvc.yaml, pushed and fetched together by one call."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from replica import secrets
from replica.config.project import Project
from replica.errors import ReplicaError
from replica.files import write_text
from replica.sharing import remotes
from replica.sharing.artifacts import Artifact
from replica.sharing.remotes import Remote, RemoteError

#: The stage whose outputs are the archives. It is frozen: DVC never runs it.
STAGE = "published"
COMMAND = "replica publish"
PIPELINE, LOCK = "dvc.yaml", "dvc.lock"


class Store:
    """The DVC repository of a checkout; every error of DVC comes out as one line without secrets."""

    def __init__(self, root: Path, project: Project, remote: str | None):
        self.root = root.resolve()
        remotes.refuse_shared_secrets(self.repo.config.read("repo"), ".dvc/config")
        remotes.hide_secrets(self.repo.config)
        self.remote: Remote = remotes.chosen(self.repo.config, remote, project)

    # tracked archives

    @cached_property
    def repo(self) -> Any:
        """DVC's view of the checkout, as its files are now."""
        with self._errors("DVC cannot work here"):
            from dvc.repo import Repo

            return Repo(str(self.root))

    def _reload(self) -> None:
        """Read dvc.yaml and dvc.lock anew at the next use."""
        self.__dict__.pop("repo", None)
        self.__dict__.pop("outputs", None)

    @cached_property
    def outputs(self) -> dict[str, Any]:
        """DVC's outputs of the stage by path; empty before the first publication."""
        with self._errors(PIPELINE):
            if STAGE not in (_read(_text(self.root / PIPELINE)).get("stages") or {}):
                return {}
            stage = self.repo.stage.load_one(str(self.root / PIPELINE), STAGE)
            return {out.def_path: out for out in stage.outs}

    def cached(self, path: str) -> Path | None:
        """Return the file in DVC's cache that holds an archive's bytes, or None where there is none."""
        out = self.outputs.get(path)
        if out is None or not out.hash_info:
            return None
        file = Path(out.cache.oid_to_path(out.hash_info.value))
        return file if file.is_file() else None

    def pinned(self, path: str) -> bool:
        """Whether dvc.lock pins an archive."""
        out = self.outputs.get(path)
        return out is not None and bool(out.hash_info)

    def track(self, artifacts: Mapping[str, Artifact], new: Iterable[str], held: Iterable[str]) -> None:
        """Add archives at their paths to cache, dvc.yaml and dvc.lock.

        `artifacts` are those whose entries dvc.yaml gets or renews, `new` the ids whose archives changed, `held` those that may go to
        this remote alone. Both files are written in one step each; their other content stays.
        """
        with self._errors("DVC could not take the archives"):
            self._write_pipeline(artifacts, set(held))
            new = sorted({artifacts[name].archive for name in new})
            if not new:
                return
            self._reload()
            with self.repo.lock:
                for path in new:
                    out = self.outputs[path]
                    out.save()
                    out.commit()
                self._write_lock()
            self._reload()

    def _write_pipeline(self, artifacts: Mapping[str, Artifact], held: set[str]) -> None:
        path = self.root / PIPELINE
        text = _text(path)
        value = _read(text)
        stage = (value.get("stages") or {}).get(STAGE) or {}
        known = {_path_of(item): item for item in stage.get("outs", [])}
        entries = value.get("artifacts") or {}
        before = (dict(known), dict(entries))
        for artifact in artifacts.values():
            out = {artifact.archive: {"remote": self.remote.name}} if artifact.id in held else artifact.archive
            if not (artifact.archive in known and _is_held(known[artifact.archive]) == _is_held(out)):
                known[artifact.archive] = out  # else held for the remote that it went to first
            entries[artifact.name] = {
                "path": artifact.archive,
                "type": artifact.type,
                "desc": artifact.desc,
                "labels": list(artifact.labels),
            }
        if before == (known, entries):
            return
        value = _round_trip().load(text) or {}  # with its comments
        outs = [known[name] for name in sorted(known)]
        value.setdefault("stages", {})[STAGE] = {"cmd": COMMAND, "frozen": True, "outs": outs}
        value["artifacts"] = {name: entries[name] for name in sorted(entries)}
        stream = io.StringIO()
        _round_trip().dump(value, stream)
        write_text(path, stream.getvalue())

    def _write_lock(self) -> None:
        from dvc.stage.serialize import to_single_stage_lockfile
        from dvc.utils.serialize import dumps_yaml

        stage = next(iter(self.outputs.values())).stage
        path = self.root / LOCK
        value = {"schema": "2.0", **_read(_text(path))}
        value.setdefault("stages", {})[STAGE] = to_single_stage_lockfile(stage)
        write_text(path, dumps_yaml(value))

    # to and from the remote

    def push(self, paths: Iterable[str]) -> None:
        """Push archives that the remote lacks, and look at the size of all there.

        A partial upload is removed there and pushed again. RemoteError where an archive is still missing in the end.
        """
        paths = sorted(paths)
        self._transfer("push", paths)
        if broken := self._not_whole(paths):
            self._remove(broken)
            self._transfer("push", broken)
            if still := self._not_whole(broken):
                raise RemoteError(
                    f"{self._where()}: holds {still[0]} with another size than was sent; is its disk full?"
                )

    def fetch(self, paths: Iterable[str]) -> None:
        """Fetch archives into the cache; RemoteError naming those that the remote does not have."""
        wanted = [path for path in sorted(paths) if self.cached(path) is None]
        if not wanted:
            return
        self._transfer("pull", wanted)
        if missing := [path for path in wanted if self.cached(path) is None]:
            raise RemoteError(self._lacking(missing))

    def place(self, path: str) -> str:
        """Return where the remote keeps an archive."""
        with self._errors(f"{self._where()}: could not look at what it holds"):
            odb = self.repo.cloud.get_remote_odb(self.remote.name)
            return secrets.masked(odb.oid_to_path(self._hash(path)))

    def drop(self, path: str) -> None:
        """Remove a damaged archive from the cache and from its place, so that the next fetch brings it anew."""
        cached = self.cached(path)
        with suppress(FileNotFoundError):
            (self.root / path).unlink()
        if cached is not None:
            cached.unlink()

    def _transfer(self, verb: str, paths: list[str]) -> None:
        """Push or pull with DVC; its log of the single files gives the reason of an error."""
        reasons = _Reasons()
        with reasons.listening(), self._errors(f"{self._where()}: could not {verb}", reasons):
            hashes = [self.outputs[path].hash_info for path in paths]
            with self.repo.lock:  # by hash: DVC's own choice of targets takes time with the square of their number
                failed = getattr(self.repo.cloud, verb)(hashes, remote=self.remote.name).failed
        if failed:
            done = "pushed" if verb == "push" else "fetched"
            text = (
                f"{self._where()}: {len(failed)} of {len(paths)} archives could not be {done}{reasons.text()}; "
                "call again: only what is missing is transferred"
            )
            raise RemoteError(text)

    def _lacking(self, missing: list[str]) -> str:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        return (
            f"{self._where()}: does not hold {', '.join(missing[:3])}{more} as published: pushed elsewhere or only in part, or "
            "damaged there; whoever published it calls `replica publish` again"
        )

    def _not_whole(self, paths: list[str]) -> list[str]:
        """Return the archives that the remote does not hold in their full size."""
        if not paths:
            return []
        with self._errors(f"{self._where()}: could not look at what it holds"):
            odb = self.repo.cloud.get_remote_odb(self.remote.name)

            def whole(path: str) -> bool:
                try:
                    return odb.fs.info(odb.oid_to_path(self._hash(path)))["size"] == self.outputs[path].meta.size
                except FileNotFoundError:
                    return False

            with ThreadPoolExecutor(max_workers=8) as pool:
                return [path for path, good in zip(paths, pool.map(whole, paths), strict=True) if not good]

    def _remove(self, paths: list[str]) -> None:
        with self._errors(f"{self._where()}: could not remove half an upload"):
            odb = self.repo.cloud.get_remote_odb(self.remote.name)
            for path in paths:
                with suppress(FileNotFoundError):
                    odb.fs.remove(odb.oid_to_path(self._hash(path)))

    def _hash(self, path: str) -> str:
        return self.outputs[path].hash_info.value

    def _where(self) -> str:
        return f"remote '{self.remote.name}' ({self.remote.url})"

    @contextmanager
    def _errors(self, context: str, reasons: _Reasons | None = None) -> Iterator[None]:
        """Turn any error of DVC or a remote's library into one line."""
        try:
            yield
        except ReplicaError:
            raise
        except Exception as error:
            raise RemoteError(f"{context}: {_reason(error)}{reasons.text() if reasons else ''}") from None


class _Reasons(logging.Handler):
    """Collects why single files were not transferred, which DVC logs and does not raise."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.errors: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the error that a record is about."""
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            self.errors.append(_reason(error))

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Listen to DVC's loggers instead of letting them print."""
        loggers = [logging.getLogger(name) for name in ("dvc", "dvc_data", "dvc_objects")]
        before = [(logger, logger.propagate, logger.handlers[:]) for logger in loggers]
        for logger in loggers:
            logger.handlers, logger.propagate = [self], False
        try:
            yield
        finally:
            for logger, propagate, handlers in before:
                logger.handlers, logger.propagate = handlers, propagate

    def text(self) -> str:
        """Return the first reason, to be put behind a sentence."""
        return f" ({self.errors[0]})" if self.errors else ""


def _reason(error: BaseException) -> str:
    """Return the innermost message of an error in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def _read(text: str) -> dict[str, Any]:
    """Read YAML quickly, without its comments."""
    import yaml

    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)) or {}


def _round_trip() -> Any:
    """Return a reader and writer of YAML that keeps comments, order and the project's way of indenting."""
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def without_published(text: str | None) -> Any:
    """Return the content of a dvc.yaml without publications, to see whether it has other changes."""
    value = _read(text or "")
    value.pop("artifacts", None)
    (value.get("stages") or {}).pop(STAGE, None)
    return {key: part for key, part in value.items() if part}


def _path_of(out: Any) -> str:
    return out if isinstance(out, str) else next(iter(out))


def _is_held(out: Any) -> bool:
    return not isinstance(out, str)
