"""Reads a paper's folder, `config/papers/<id>/`: `paper.yaml`, with sets and groups of claims, and its CSV tables.

Sets, groups, tables and templates are expanded here; the rest of the project knows only the resolved `Paper`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, create_model

from replica.config.paper_tables import CsvTable, expand_ours, nested, numbers, read_table
from replica.config.patterns import Sets, matrix_names, spread
from replica.config.schema import Claim, Paper, Trend
from replica.config.strict import Strict
from replica.config.validation import validate
from replica.config.yaml_files import read_yaml
from replica.errors import ConfigError

#: A paper's main file in its folder.
FILE = "paper.yaml"
#: Keys of a paper and of a claim whose names may hold sets.
_NAMES_OF_PAPER = ("measurements", "runs", "tables", "figures")
_NAMES_OF_CLAIM = ("value", "ours", "tolerances", "not_run", "blocked", "explain")

SetOfNames = list[str | int] | dict[str, str | int]


def _optional(model: type[Strict], name: str, without: tuple[str, ...] = (), **more: Any) -> type[Strict]:
    """Return a model with the fields of another, none of them required."""
    fields = {
        key: (field.annotation | None, Field(None, description=field.description))  # type: ignore[operator]
        for key, field in model.model_fields.items()
        if key not in without
    }
    return create_model(name, __base__=Strict, **{**fields, **more})  # type: ignore[call-overload]


SharedKeys = _optional(
    Claim,
    "SharedKeys",
    without=("id",),
    csv=(CsvTable | None, None),
    trend=(_optional(Trend, "TrendEntry") | None, None),
)
ClaimEntry = create_model("ClaimEntry", __base__=SharedKeys, id=(str, Claim.model_fields["id"]))


class Group(Strict):
    """Claims and the keys that they share; a claim's own value replaces a shared one, and null removes it."""

    all: SharedKeys = Field(description="`trend` holds keys for the trends of those claims that have one")  # type: ignore[valid-type]
    claims: list[ClaimEntry] = Field(min_length=1)  # type: ignore[valid-type]


class PaperFile(Paper):
    """`config/papers/<id>/paper.yaml`: a paper whose names may hold sets, and whose claims may come in groups."""

    sets: dict[str, SetOfNames] = Field(
        {}, description="name: members, or label: member; `{name}` in a name is repeated for all of them"
    )
    claims: list[ClaimEntry | Group]  # type: ignore[assignment,valid-type]


class _Sets(Strict):
    sets: dict[str, SetOfNames] = {}


class _Group(Strict):
    all: dict[str, Any]
    claims: list[Any] = Field(min_length=1)


def read_paper(folder: Path, groups: Sets | None = None) -> Paper:
    """Return the paper of a folder; ConfigError names file, key and the nearest known name.

    `groups` are sets that every paper may use (the groups of tasks); a set of the paper replaces one of the same name.
    """
    where = f"config/papers/{folder.name}/{FILE}"
    content = read_yaml(folder / FILE)
    if not isinstance(content, dict):
        raise ConfigError(f"{where}: expected a mapping, got {type(content).__name__}")
    own = validate(_Sets, {"sets": content.pop("sets", {})}, where).sets
    sets = {**(groups or {}), **own}
    _check_matrices(content.get("runs"), sets, where)
    content.update({key: spread(content[key], sets) for key in _NAMES_OF_PAPER if key in content})
    if isinstance(content.get("claims"), list):
        content["claims"] = _Claims(folder, sets, where).read(content["claims"])
    paper = validate(Paper, content, where)
    if paper.id != folder.name:
        raise ConfigError(f"{where}: id is '{paper.id}', but the folder is named '{folder.name}'")
    return paper


class _Claims:
    """Expands the claims of one paper."""

    def __init__(self, folder: Path, sets: Sets, where: str):
        self.folder, self.sets, self.where = folder, sets, where

    def read(self, items: list[Any]) -> list[Claim]:
        """Return the claims of a list, with those of its groups in place."""
        claims = []
        for index, item in enumerate(items):
            where = f"{self.where}: claims.{index}"
            if isinstance(item, dict) and ("claims" in item or "all" in item):
                group = validate(_Group, item, where)
                validate(SharedKeys, group.all, f"{where}.all")
                claims += [
                    self._claim(claim, group.all, f"{where}.claims.{index}") for index, claim in enumerate(group.claims)
                ]
            else:
                claims.append(self._claim(item, {}, where))
        return claims

    def _claim(self, own: Any, shared: dict[str, Any], where: str) -> Claim:
        if not isinstance(own, dict):
            raise ConfigError(f"{where}: expected a mapping, got {type(own).__name__}")
        if "id" in own:
            where = f"{self.where}: claims.{own['id']}"
        trend = own.get("trend")
        if isinstance(trend, dict):
            trend = {**shared.get("trend", {}), **trend}
            trend.update({key: spread(trend[key], self.sets) for key in ("effect", "shows") if key in trend})
        claim = {key: item for key, item in {**shared, **own, "trend": trend}.items() if item is not None}
        claim.update({key: spread(claim[key], self.sets) for key in _NAMES_OF_CLAIM if key in claim})
        table = nested(claim.get("value"))
        if "csv" in claim:
            if "value" in claim:
                raise ConfigError(f"{where}: give `value` or `csv`, not both")
            table = read_table(self.folder, claim.pop("csv"), self.sets, f"{where}: csv")
            claim["value"] = numbers(table)
        if "ours" in claim:
            claim["ours"] = expand_ours(claim["ours"], table, f"{where}: ours")
        return validate(Claim, claim, where)


def _check_matrices(runs: Any, sets: Sets, where: str) -> None:
    """Raise where a run's matrix has the name of a set: a part in braces could be either."""
    sections = runs.items() if isinstance(runs, dict) else ()
    for section, entries in sections:
        for name, entry in entries.items() if isinstance(entries, dict) else ():
            matrix = entry.get("matrix") if isinstance(entry, dict) else None
            keys = matrix if isinstance(matrix, dict) else ()
            for key in (name for names in keys for name in matrix_names(names)):
                if key in sets:
                    raise ConfigError(
                        f"{where}: runs.{section}.{name}: matrix: '{key}' is also a set; rename one of them"
                    )
