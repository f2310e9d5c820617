"""Secrets in the environment, in settings and in addresses: which they are, and texts without them."""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Iterable, Mapping
from types import TracebackType

#: Names of settings and variables whose values grant access, by how they end.
_NAME = re.compile(
    r"(?:secret|token|passw(?:or)?d|passphrase|sshpass|api-?key|auth_header|connection_string"
    r"|(?:^|[_-])(?:pass|pat|pwd|key|key_id|key_content|sas|auth|sig|signature|credential|jwt))$",
    re.IGNORECASE,
)
#: Names that end so and grant no access: switches, a public name of a key, where a shell is.
_HARMLESS = re.compile(r"^(?:ask_\w+|sse_kms_key_id|pwd|oldpwd)$", re.IGNORECASE)
#: An address with a scheme, in a text.
_ADDRESS = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?:(?P<user>[^\s/?#]*)@)?(?P<rest>[^\s'\"<>]*)", re.IGNORECASE)
#: Schemes whose user is the name of an account.
_ACCOUNTS = ("ssh", "sftp", "git+ssh", "rsync", "hdfs", "webhdfs")
_QUERY = re.compile(r"(?<=[?&;])(?P<key>[^=&;\s#]+)=(?P<value>[^&;\s#)]+)")
#: Secrets that stand in a text beside their names: keys in Azure's connection strings, and tokens in HTTP headers.
_NAMED = re.compile(r"(\b(?:AccountKey|SharedAccessSignature)=|\bBearer )[^\s;,'\"]+", re.IGNORECASE)
#: Shorter values are no secrets: words of every text would be struck out. Values that a setting names as secrets may be shorter.
_SHORTEST, _SHORTEST_NAMED = 6, 4
_WORDS = ("true", "false", "none", "null", "auto", "default")
#: Secrets of this process beside those of its environment.
_hidden: set[str] = set()


def is_secret(name: str) -> bool:
    """Return whether a setting or variable of this name grants access."""
    return bool(_NAME.search(name)) and not _HARMLESS.match(name)


def in_address(text: str) -> set[str]:
    """Return the secrets in the addresses of a text: passwords, users that are tokens, and signatures and keys in a query."""
    values: set[str] = set()
    for match in _ADDRESS.finditer(text):
        user, _, password = (match["user"] or "").partition(":")
        values |= {password, "" if match["scheme"].lower() in _ACCOUNTS else user}
        values |= {query["value"] for query in _QUERY.finditer(match["rest"]) if is_secret(query["key"])}
    return values - {""}


def in_environment(environment: Mapping[str, str] | None = None) -> set[str]:
    """Return the values of variables that grant access, and the secrets in the addresses of others (an index, a proxy)."""
    values: set[str] = set()
    for name, value in (os.environ if environment is None else environment).items():
        if is_secret(name):
            values |= set() if value.startswith("/") else {value}  # the path of a file with it
        elif "://" in value:
            values |= in_address(value)
    return {value for value in values if len(value) >= _SHORTEST and value.lower() not in _WORDS}


def hide(values: Iterable[str]) -> None:
    """Strike these secrets out of all texts of this process too."""
    _hidden.update(value for value in values if len(value) >= _SHORTEST_NAMED and value.lower() not in _WORDS)


def masked(text: str) -> str:
    """Return a text with every secret as `***`: of the environment, those hidden, and whatever an address carries beside its place."""
    text = _NAMED.sub(r"\1***", _ADDRESS.sub(_address, text))
    for value in sorted(_hidden | in_environment(), key=len, reverse=True):
        text = text.replace(value, "***")
    return text


def _address(match: re.Match[str]) -> str:
    user, _, password = (match["user"] or "").partition(":")
    if user and match["scheme"].lower() not in _ACCOUNTS:
        user = "***"
    account = f"{user}{':***' if password else ''}@" if match["user"] is not None else ""
    return f"{match['scheme']}://{account}{_QUERY.sub(lambda query: query['key'] + '=***', match['rest'])}"


def print_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an error that nobody expected as Python does (`sys.excepthook`), without secrets."""
    sys.stderr.write(masked("".join(traceback.format_exception(kind, error, trace))))
