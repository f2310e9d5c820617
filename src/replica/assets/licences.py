"""What may be passed on: the registries' licences, and the check before anything goes to a public remote."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from replica.errors import AssetError

if TYPE_CHECKING:
    from replica.config.asset_schema import DatasetEntry, ModelEntry
    from replica.config.project import Project

#: Licences that the hub's cards know by an identifier of their own; every other one is `other` there.
HUB_IDENTIFIERS = frozenset(
    {
        "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "unknown",
        "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-4.0",
    }
)  # fmt: skip
#: What stands for the licence of weights that nobody gave: drawn at random here.
RANDOM = "none needed: initialised at random"


def licence_of(entry: DatasetEntry | ModelEntry) -> str:
    """Return the licence of what an entry's sources bring; a model without sources needs none."""
    return entry.licence if entry.sources is not None else RANDOM


def may_pass_on(entry: DatasetEntry | ModelEntry) -> bool:
    """Say whether anybody may be given copies; what is unknown may not."""
    return entry.sources is None or entry.redistribute is True


def hub_identifier(licence: str) -> str:
    """Return the hub's identifier of a licence, e.g. `cc-by-sa-4.0` for `CC BY-SA 4.0`; `other` where it has none."""
    found = licence.lower().replace(" ", "-")
    return found if found in HUB_IDENTIFIERS else "other"


def check_redistribution(
    project: Project, dataset_names: Iterable[str], remote_name: str, public: bool, models: Iterable[str] = ()
) -> None:
    """Refuse to push to a public remote what may not be passed on.

    Parameters
    ----------
    dataset_names
        registered data sets whose rows, as retrieved or tokenized, would be pushed.
    remote_name, public
        the remote, and whether it is marked public: whoever reads it gets copies.
    models
        registered models whose weights, as retrieved or trained further, would be pushed.

    Raises
    ------
    AssetError
        naming every data set and model that may not go there, its licence and terms, and what would be right.
    ConfigError
        for a name that no registry has.
    """
    entries = [(f"data set '{name}'", project.dataset(name)) for name in dict.fromkeys(dataset_names)]
    entries += [(f"model '{name}'", project.model(name)) for name in dict.fromkeys(models)]
    refused = [_reason(what, entry) for what, entry in entries if not may_pass_on(entry)] if public else []
    if refused:
        raise AssetError(
            f"remote '{remote_name}' is marked public, and not everything may be passed on: {'; '.join(refused)}; "
            "push it to a remote that is not public, or leave it out: who needs it retrieves it from its source"
        )


def _reason(what: str, entry: DatasetEntry | ModelEntry) -> str:
    known = "may be passed on: unknown" if entry.redistribute == "unknown" else "may not be passed on to everybody"
    return f"{what} {known} (licence: {entry.licence}{f'; terms: {entry.terms}' if entry.terms else ''})"
