"""`published/index.json`: every published file with its sha256, under version control. Files that it does not name are not trusted."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from replica.errors import AssetError
from replica.files import read_result, write_json

PATH = "published/index.json"
#: Raised when archives or the index change their form.
FORMAT = 1


@dataclass(frozen=True)
class Entry:
    """A published artifact: its archive's sha256 and bytes, and the sha256 of every file in it."""

    kind: str
    folder: str
    papers: list[str]
    sha256: str
    bytes: int
    files: dict[str, str]


def read(root: Path) -> dict[str, Entry]:
    """Read the index below `root`; empty before the first publication. AssetError where the file is no index."""
    path = root / PATH
    if not path.exists():
        return {}
    value = read_result(
        path, {"format": int, "artifacts": dict}, f"`git checkout -- {PATH}` brings back the committed one"
    )
    if value["format"] != FORMAT:
        raise AssetError(f"{path}: has format {value['format']}, this version of replica reads {FORMAT}")
    try:
        return {name: Entry(**facts) for name, facts in value["artifacts"].items()}
    except (TypeError, AttributeError) as error:
        raise AssetError(f"{path}: an entry is not one of an artifact ({error})") from None


def write(root: Path, entries: dict[str, Entry]) -> None:
    """Write the index in one step."""
    value: dict[str, Any] = {name: asdict(entry) for name, entry in sorted(entries.items())}
    write_json(root / PATH, {"format": FORMAT, "artifacts": value})
