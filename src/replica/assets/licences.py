"""Licences of the registries' data sets and models, and the check before anything is pushed to a public remote."""

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
#: The licence of weights that are drawn at random here.
RANDOM = "none needed: initialised at random"


def licence_of(entry: DatasetEntry | ModelEntry) -> str:
    """Return the licence of an entry; a model without sources needs none."""
    return entry.licence if entry.sources is not None else RANDOM


def may_pass_on(entry: DatasetEntry | ModelEntry) -> bool:
    """Return whether copies may be redistributed; False where that is unknown."""
    return entry.sources is None or entry.redistribute is True


def hub_identifier(licence: str) -> str:
    """Return the hub's identifier of a licence, e.g. `cc-by-sa-4.0` for `CC BY-SA 4.0`; `other` where it has none."""
    identifier = licence.lower().replace(" ", "-")
    return identifier if identifier in HUB_IDENTIFIERS else "other"


def check_redistribution(
    project: Project, dataset_names: Iterable[str], remote_name: str, public: bool, models: Iterable[str] = ()
) -> None:
    """Refuse to push data and weights that may not be redistributed to a public remote.

    Parameters
    ----------
    dataset_names
        registered data sets whose rows, as retrieved or tokenized, would be pushed.
    remote_name, public
        the remote, and whether it is marked public: all its readers get copies.
    models
        registered models whose weights, as retrieved or trained further, would be pushed.

    Raises
    ------
    AssetError
        naming every data set and model that may not go there with licence and terms, and the remedy.
    ConfigError
        for a name that no registry has.
    """
    entries = [(f"data set '{name}'", project.dataset(name)) for name in dict.fromkeys(dataset_names)]
    entries += [(f"model '{name}'", project.model(name)) for name in dict.fromkeys(models)]
    refused = [_reason(label, entry) for label, entry in entries if not may_pass_on(entry)] if public else []
    if refused:
        raise AssetError(
            f"remote '{remote_name}' is marked public, and not everything may be passed on: {'; '.join(refused)}; "
            "push it to a remote that is not public, or leave it out: who needs it retrieves it from its source"
        )


def _reason(label: str, entry: DatasetEntry | ModelEntry) -> str:
    known = "may be passed on: unknown" if entry.redistribute == "unknown" else "may not be passed on to everybody"
    return f"{label} {known} (licence: {entry.licence}{f'; terms: {entry.terms}' if entry.terms else ''})"
