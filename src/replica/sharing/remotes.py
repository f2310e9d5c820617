"""DVC's remotes: the chosen one, its secret settings, and checks that no secret is under version control or printed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from replica import secrets
from replica.config.project import Project
from replica.errors import ConfigError, ReplicaError, nearest

#: What `auth` of a remote may be; anything else is what it grants access with.
AUTHENTICATION = ("basic", "digest", "custom")


class RemoteError(ReplicaError):
    """A remote that is not configured, cannot be reached, refuses, or lacks an archive."""


@dataclass(frozen=True)
class Remote:
    """A remote by name; `url` shows no secret."""

    name: str
    url: str
    public: bool


def chosen(config: Mapping[str, Any], requested: str | None, project: Project) -> Remote:
    """Return the requested remote, or DVC's default.

    Raises RemoteError where none is configured and ConfigError where none has that name.
    """
    known = config.get("remote", {})
    name = requested or config.get("core", {}).get("remote")
    if not name:
        raise RemoteError("no remote is configured: `dvc remote add --default lab URL` (docs/sharing.md)")
    if name not in known:
        raise ConfigError(f"no remote '{name}'{nearest(name, known)}; `dvc remote add {name} URL` makes one")
    return Remote(name, secrets.masked(known[name]["url"]), name in project.settings.public_remotes)


def refuse_shared_secrets(config: Mapping[str, Any], where: str) -> None:
    """Raise RemoteError where a configuration that is under version control holds a secret, or a setting that DVC does not know."""
    for place, key, value in _settings(config):
        name = place.removeprefix("remote.")
        if _grants_access(place, key, value) or secrets.in_address(value):
            raise RemoteError(
                f"{where}: '{name}' has `{key}` with a secret in it (or one that DVC does not know), and this file is under version "
                f"control; take it out, and `dvc remote modify --local {name} …` (or the environment) gives it to this machine alone"
            )


def hide_secrets(config: Mapping[str, Any]) -> None:
    """Let no text of this process show a secret that DVC could have been given here."""
    for place, key, value in _settings(config):
        secrets.hide([value] if _grants_access(place, key, value) else secrets.in_address(value))


def _settings(config: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield section (`remote.lab`), name and value of every setting."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _settings(value, f"{place}.{key}".lstrip("."))
        else:
            yield place, str(key), str(value)


def _grants_access(place: str, key: str, value: str) -> bool:
    name = key.lower()
    if name == "auth":
        return value.lower() not in AUTHENTICATION
    return secrets.is_secret(name) or (place.startswith("remote.") and name not in _known())


@cache
def _known() -> frozenset[str]:
    """Return the names of all settings that DVC's remotes have."""
    from dvc.config_schema import REMOTE_SCHEMAS

    return frozenset(str(name) for schema in REMOTE_SCHEMAS.values() for name in schema)
