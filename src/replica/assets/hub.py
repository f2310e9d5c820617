"""The hub source: files of a repository at a pinned revision, over the network, with nothing executed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from replica.assets import layout
from replica.assets.sources import SourceUnavailable, full_disk, is_full, safe_member
from replica.config.asset_schema import HubSource
from replica.errors import AssetError
from replica.files import sha256_file

if TYPE_CHECKING:
    from huggingface_hub import HfApi

OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
#: The hub's own conversion of a repository whose data only its loading script can make.
CONVERTED = "refs/convert/parquet"
TIMEOUT = 20.0


def versions() -> dict[str, str]:
    """Return the version of the hub's client."""
    from importlib.metadata import version

    return {"huggingface_hub": version("huggingface_hub")}


def list_files(source: HubSource, kind: str) -> dict[str, str | None]:
    """List a repository's files at the pinned revision, with the sha256 that the hub has of the large ones.

    `kind` is `model` or `dataset`.
    """
    _ready(source)
    with _network(source, Path.cwd()):
        info = _api().repo_info(
            source.repo, repo_type=kind, revision=source.revision, files_metadata=True, timeout=TIMEOUT
        )
    return {
        entry.rfilename: entry.lfs.sha256 if entry.lfs else None
        for entry in sorted(info.siblings or (), key=lambda entry: entry.rfilename)
    }


def download(
    source: HubSource, kind: str, names: list[str], hashes: dict[str, str | None], scratch: Path
) -> dict[str, Path]:
    """Download files into `scratch` and return their paths by name.

    Raises
    ------
    AssetError
        where a file arrives truncated, or with another sha256 than `hashes` has for it.
    """
    _ready(source)
    found = {}
    for name in names:
        safe_member(name, f"hub {source.repo}")
        with _network(source, scratch):
            path = _api().hf_hub_download(
                source.repo, name, repo_type=kind, revision=source.revision, local_dir=scratch / "hub"
            )
        found[name] = Path(path)
        expected = hashes.get(name)
        if expected and (actual := sha256_file(path)) != expected:
            raise AssetError(
                f"hub {source.repo}: {name} arrived with sha256 {actual}, the hub has {expected}: "
                "corrupt on its way; retrieve it again"
            )
    return found


def dataset_files(source: HubSource, splits: list[str], scratch: Path) -> dict[str, list[Path]]:
    """Download the Parquet files of the wanted splits."""
    hashes = list_files(source, "dataset")
    readme = ""
    if "README.md" in hashes:
        path = download(source, "dataset", ["README.md"], hashes, scratch)["README.md"]
        readme = path.read_text(encoding="utf-8")
    there = layout.splits_of(list(hashes), readme, source.config)
    found = {}
    for split in splits:
        theirs = source.splits.get(split, split)
        if theirs not in there:
            raise AssetError(
                f"hub {source.repo}: revision {source.revision} has no Parquet files of split {theirs!r} of "
                f"configuration {source.config!r} (it has {', '.join(sorted(there)) or 'none'}); pin the revision of "
                f"its converted branch, {CONVERTED}: a loading script is never run"
            )
        found[split] = list(download(source, "dataset", there[theirs], hashes, scratch).values())
    return found


def resolve_revision(repo: str, kind: str) -> str:
    """Ask the hub for the commit to pin: of `main`, or of the converted branch where `main` has no Parquet."""
    main = HubSource(repo=repo, revision="main")
    branch = "main"
    if kind == "dataset" and not any(name.endswith(".parquet") for name in list_files(main, kind)):
        branch = CONVERTED
    with _network(HubSource(repo=repo, revision=branch), Path.cwd()):
        return str(_api().repo_info(repo, repo_type=kind, revision=branch, timeout=TIMEOUT).sha)


def _api() -> HfApi:
    from huggingface_hub import HfApi

    return HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, token=False)


def _ready(source: HubSource) -> None:
    if source.revision is None:
        raise SourceUnavailable(f"{source.repo} has no pinned revision; give its `revision` in the registry a commit")
    for name in OFFLINE:
        if os.environ.get(name, "").upper() in {"1", "TRUE", "YES", "ON"}:
            raise SourceUnavailable(f"{name} is set, so {source.repo} is not asked for")


@contextmanager
def _network(source: HubSource, folder: Path) -> Iterator[None]:
    """Turn what the hub's client raises into our errors."""
    from huggingface_hub import errors

    where = f"{source.repo} at {source.revision}"
    missing = (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.RemoteEntryNotFoundError)
    try:
        yield
    except missing as error:
        raise AssetError(f"hub: {where} is not there ({_line(error)}); correct the registry") from None
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError) as error:
        raise SourceUnavailable(f"no network to the hub for {where} ({_line(error)})") from None
    except errors.HfHubHTTPError as error:
        raise SourceUnavailable(f"the hub does not give {where} ({_line(error)})") from None
    except (errors.HTTPError, ConnectionError, TimeoutError) as error:
        if "complete message body" in str(error):
            raise _truncated(where, error) from None
        raise SourceUnavailable(f"no network to the hub for {where} ({type(error).__name__}: {_line(error)})") from None
    except OSError as error:
        if is_full(error):
            raise full_disk(f"hub {where}", folder) from None
        if "onsistency check failed" in str(error):
            raise _truncated(where, error) from None
        raise


def _truncated(where: str, error: BaseException) -> AssetError:
    return AssetError(f"hub: a file of {where} was truncated on its way ({_line(error)}); retrieve it again")


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
