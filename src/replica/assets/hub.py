"""The hub source: files of a repository at its locked commit, over the network, with nothing executed.

Every file is checked against the requested commit, the digest that the hub lists at that commit, and the digest in
config/hub.lock.yaml. `huggingface_hub` brings the files, with its resumption and retries inside one call (`http_get`). This module
keeps the partial file from one call to the next: `hf_hub_download` removes it when a connection breaks, and it checks no digest of
a downloaded file.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from replica.assets import layout
from replica.assets.sources import BrokenOff, SourceUnavailable, full_disk, safe_member
from replica.config.asset_schema import HubSource
from replica.errors import AssetError, disk_is_full
from replica.files import sha256_file

if TYPE_CHECKING:
    from huggingface_hub import HfApi

OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
#: Environment variables with the certificates that a connection is checked against.
CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
#: The hub's own conversion of a repository whose data only its loading script can make.
CONVERTED = "refs/convert/parquet"
TIMEOUT = 20.0
LOCK = "config/hub.lock.yaml"
RELOCK = "the repository was changed under its commit, or the lock is of another one; `replica lock --check` says which"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_DIGEST = re.compile(r"[0-9a-f]{64}|[0-9a-f]{40}")


def versions() -> dict[str, str]:
    """Return the version of the hub's client."""
    from importlib.metadata import version

    return {"huggingface_hub": version("huggingface_hub")}


def list_files(source: HubSource, kind: str) -> dict[str, str]:
    """List a repository's files at a revision with the hub's digest of each: sha256 of large ones, git's blob id of the others.

    `kind` is `model` or `dataset`.

    Raises
    ------
    AssetError
        where the hub answers with another commit than the requested one, or lists another file than the locked one.
    """
    ready(source)
    with _network(source, Path.cwd()):
        info = _api().repo_info(
            source.repo, repo_type=kind, revision=source.revision, files_metadata=True, timeout=TIMEOUT
        )
    _same_commit(source, info.sha)
    files = {
        entry.rfilename: entry.lfs.sha256 if entry.lfs else str(entry.blob_id)
        for entry in sorted(info.siblings or (), key=lambda entry: entry.rfilename)
    }
    for name, locked in source.locked.items():
        if name not in files:
            raise AssetError(f"hub: {source.repo} at {source.revision} has no {name}, which {LOCK} remembers; {RELOCK}")
        if is_digest(files[name]) and files[name] != locked:
            raise AssetError(
                f"hub: {name} of {source.repo} at {source.revision} is another file than {LOCK} remembers: {files[name]}, "
                f"locked {locked}; {RELOCK}"
            )
    return files


def download(source: HubSource, kind: str, names: list[str], digests: dict[str, str], folder: Path) -> dict[str, Path]:
    """Download files into `folder` and return their paths by name.

    A whole file is not requested again; a partial one is continued.

    Raises
    ------
    BrokenOff, SourceUnavailable
        where the connection is slow, broken or absent; the partial file stays in `folder`.
    AssetError
        where a file has another digest than `digests` has for it, or comes from another commit; it is not kept.
    """
    ready(source)
    paths = {}
    for name in names:
        path = folder / safe_member(name, f"hub {source.repo}")
        expected = digests.get(name, "")
        if not (path.is_file() and is_digest(expected) and digest(path, expected) == expected):
            path.parent.mkdir(parents=True, exist_ok=True)
            _fetch(source, kind, name, path, expected)
        paths[name] = path
    return paths


def is_digest(value: str) -> bool:
    """Return whether a string is a digest of a file's content: sha256 or git's blob id."""
    return _DIGEST.fullmatch(value) is not None


def digest(path: Path, like: str) -> str:
    """Return a file's digest of the kind of another one: sha256 (64 digits) or git's blob id (40)."""
    if len(like) == 64:
        return sha256_file(path)
    blob = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with open(path, "rb") as handle:
        while block := handle.read(1 << 20):
            blob.update(block)
    return blob.hexdigest()


def _fetch(source: HubSource, kind: str, name: str, path: Path, expected: str) -> None:
    """Download a file to `<name>.part`, continuing one that is there, check its digest and give it its name."""
    part = path.with_name(f"{path.name}.part")
    whole = part.is_file() and is_digest(expected) and digest(part, expected) == expected  # killed before the new name
    try:
        if not whole:
            _append(source, kind, name, part)
    except SourceUnavailable as error:
        size = part.stat().st_size if part.is_file() else 0
        rest = f"; {size:,} bytes of {name} are kept, the next try goes on from there" if size else ""
        raise SourceUnavailable(f"{error}{rest}") from None
    if is_digest(expected) and (actual := digest(part, expected)) != expected:
        part.unlink()
        raise AssetError(
            f"hub {source.repo}: {name} arrived with {'sha256' if len(expected) == 64 else 'blob id'} {actual}, the hub has "
            f"{expected}: corrupt on its way; retrieve it again"
        )
    os.replace(part, path)


def _append(source: HubSource, kind: str, name: str, part: Path) -> None:
    """Download the rest of a partial file and append it."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    with _network(source, part.parent):
        url = hf_hub_url(source.repo, name, repo_type=kind, revision=source.revision, endpoint=_api().endpoint)
        facts = get_hf_file_metadata(url, token=False, timeout=TIMEOUT)
        if facts.commit_hash is not None:
            _same_commit(source, facts.commit_hash)
        if part.is_file() and facts.size is not None and part.stat().st_size > facts.size:
            part.unlink()
        headers = {**build_hf_headers(token=False), "Accept-Encoding": "identity"}
        with open(part, "ab") as handle:
            http_get(facts.location, handle, resume_size=handle.tell(), headers=headers, expected_size=facts.size)


def _same_commit(source: HubSource, commit: str | None) -> None:
    if _COMMIT.fullmatch(source.revision or "") and commit != source.revision:
        raise AssetError(
            f"hub: wrong revision: {source.repo} was asked for at {source.revision} and came at {commit}; nothing of it is taken"
        )


def splits_at(source: HubSource, digests: dict[str, str], folder: Path) -> dict[str, list[str]]:
    """Return the Parquet files of every split of a listed repository; its README, which may declare them, is read for that."""
    readme = ""
    if "README.md" in digests:
        path = download(source, "dataset", ["README.md"], digests, folder)["README.md"]
        readme = path.read_text(encoding="utf-8", errors="replace")
    return layout.splits_of(list(digests), readme, source.config)


def files_of_split(source: HubSource, there: dict[str, list[str]], split: str, digests: Mapping[str, str]) -> list[str]:
    """Return the files of one of our splits; AssetError where the repository does not have all of them."""
    theirs = source.splits.get(split, split)
    if theirs not in there:
        raise AssetError(
            f"hub {source.repo}: revision {source.revision} has no Parquet files of split {theirs!r} of "
            f"configuration {source.config!r} (it has {', '.join(sorted(there)) or 'none'}); lock the commit of "
            f"its converted branch, {CONVERTED}: a loading script is never run"
        )
    if missing := layout.missing_parts(there[theirs]):
        raise AssetError(f"hub {source.repo}: split {theirs!r} is not whole at {source.revision}: {missing}")
    if stray := layout.stray_file(there[theirs], [digests.get(name, "") for name in there[theirs]]):
        raise AssetError(
            f"hub {source.repo}: split {theirs!r} would have rows twice at {source.revision}: {stray}; lock another commit"
        )
    return there[theirs]


def dataset_files(source: HubSource, splits: list[str], folder: Path) -> dict[str, list[Path]]:
    """Download the Parquet files of the wanted splits."""
    digests = list_files(source, "dataset")
    there = splits_at(source, digests, folder)
    names = {split: files_of_split(source, there, split, digests) for split in splits}
    return {split: list(download(source, "dataset", names[split], digests, folder).values()) for split in splits}


def resolve_revision(repo: str, kind: str) -> str:
    """Return the hub's commit to lock: of `main`, or of the converted branch where `main` has no Parquet."""
    main = HubSource(repo=repo, revision="main")
    branch = "main"
    if kind == "dataset" and not any(name.endswith(".parquet") for name in list_files(main, kind)):
        branch = CONVERTED
    with _network(HubSource(repo=repo, revision=branch), Path.cwd()):
        return str(_api().repo_info(repo, repo_type=kind, revision=branch, timeout=TIMEOUT).sha)


def _api() -> HfApi:
    from huggingface_hub import HfApi

    return HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, token=False)


def ready(source: HubSource) -> None:
    """Raise SourceUnavailable where no commit is locked or an offline switch is set."""
    if source.revision is None:
        raise SourceUnavailable(f"{source.repo} has no pinned revision; `replica lock` writes one to {LOCK}")
    for name in OFFLINE:
        if os.environ.get(name, "").upper() in {"1", "TRUE", "YES", "ON"}:
            raise SourceUnavailable(f"{name} is set, so {source.repo} is not asked for")


@contextmanager
def _network(source: HubSource, folder: Path) -> Iterator[None]:
    """Turn errors of the hub's client into AssetErrors that name repository and commit."""
    from huggingface_hub import errors

    where = f"{source.repo} at {source.revision}"
    for name in CERTIFICATES:
        path = os.environ.get(name)
        if path and not os.access(path, os.R_OK):
            raise SourceUnavailable(
                f"no connection to the hub for {where}: {name} names certificates in {path}, which is not there or not readable; "
                f"correct it, or unset it"
            )
    missing = (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.RemoteEntryNotFoundError)
    try:
        yield
    except errors.GatedRepoError:
        raise AssetError(
            f"hub: {source.repo} is given only to who accepted its terms, and is asked for without a token; accept them and put "
            "it into a mirror"
        ) from None
    except missing as error:
        raise AssetError(
            f"hub: {where} is not there ({_line(error)}); correct the registry, or lock it again (`replica lock --update`)"
        ) from None
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError) as error:
        raise SourceUnavailable(f"no network to the hub for {where} ({_line(error)})") from None
    except errors.HfHubHTTPError as error:
        raise SourceUnavailable(f"the hub does not give {where} ({_line(error)})") from None
    except (errors.HTTPError, ConnectionError, TimeoutError) as error:
        if "complete message body" in str(error):
            raise _truncated(where, error) from None
        raise SourceUnavailable(f"no network to the hub for {where} ({type(error).__name__}: {_line(error)})") from None
    except OSError as error:
        if disk_is_full(error):
            raise full_disk(f"hub {where}", folder) from None
        if "onsistency check failed" in str(error):
            raise _truncated(where, error) from None
        if error.filename is not None:  # a file of ours; an error of the connection has none
            raise
        raise SourceUnavailable(
            f"no connection to the hub for {where} ({type(error).__name__}: {_line(error)})"
        ) from None


def _truncated(where: str, error: BaseException) -> BrokenOff:
    return BrokenOff(
        f"hub: a file of {where} was truncated on its way ({_line(error)}); retrieve it again: it goes on where it stopped"
    )


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
