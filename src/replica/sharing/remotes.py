"""DVC's remotes: the chosen one, its secret settings, and checks that no secret is under version control or printed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from replica.config.project import Project
from replica.errors import ConfigError, ReplicaError, nearest

#: Settings of a remote that grant access.
SECRET = (
    "access_key_id", "secret_access_key", "session_token", "sse_customer_key", "password", "passphrase", "token", "account_key",
    "sas_token", "connection_string", "client_secret", "oss_key_id", "oss_key_secret", "gdrive_client_secret", "custom_auth_header",
    "key_content",
)  # fmt: skip
#: Variables of the environment that remotes take their credentials from.
SECRET_VARIABLES = re.compile(r"SECRET|PASSWORD|PASSPHRASE|TOKEN|ACCESS_KEY|ACCOUNT_KEY|CONNECTION_STRING")


class RemoteError(ReplicaError):
    """A remote that is not configured, cannot be reached, refuses, or lacks an archive."""


@dataclass(frozen=True)
class Remote:
    """A remote by name; `url` holds no password."""

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
    return Remote(name, without_password(known[name]["url"]), name in project.settings.public_remotes)


def refuse_shared_secrets(config: Mapping[str, Any], where: str) -> None:
    """Raise RemoteError where a configuration that is under version control holds a secret."""
    for name, settings in config.get("remote", {}).items():
        for key, value in settings.items():
            if key in SECRET or (key == "url" and urlsplit(str(value)).password):
                raise RemoteError(
                    f"{where}: remote '{name}' has `{key}` with a secret in it, and this file is under version control; take it out, "
                    f"and `dvc remote modify --local {name} …` (or the environment) gives it to this machine alone"
                )


def secrets(config: Mapping[str, Any], environment: Mapping[str, str] = os.environ) -> set[str]:
    """Return every secret that DVC could have been given here."""
    values = {value for name, value in environment.items() if SECRET_VARIABLES.search(name)}
    for settings in config.get("remote", {}).values():
        values |= {str(value) for key, value in settings.items() if key in SECRET}
        values.add(urlsplit(str(settings.get("url", ""))).password or "")
    return {value for value in values if len(value) >= 4}


def without(text: str, hidden: Iterable[str]) -> str:
    """Return a text with every secret struck out."""
    for value in sorted(hidden, key=len, reverse=True):
        text = text.replace(value, "***")
    return text


def without_password(url: str) -> str:
    """Return an address without the password it may hold."""
    password = urlsplit(url).password
    return url.replace(f":{password}@", "@") if password else url
