"""`replica compare A B`: what differs between the results of two commits, or of two folders."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from replica.cli.verbs import console
from replica.errors import ConfigError, ResultError
from replica.files import write_text

LEDGER = "claims.json"
PINNED = f"results/pinned/{LEDGER}"


def compare(arguments: Namespace) -> int:
    """Print what differs, and write the page if asked for; 1 where something differs and `--fail-on-change` is given, else 0."""
    from replica.claims.changes import changes
    from replica.report import changes as shown

    root = Path(arguments.root)
    if arguments.most < 0:
        raise ConfigError(f"--most {arguments.most}: give a number of rows, or 0 for all")
    before = ledger_at(root, arguments.before)
    after = ledger_at(root, arguments.after) if arguments.after is not None else ledger_here(root)
    names = (before[0], after[0])
    found = changes(before[1], after[1], names)
    if arguments.html:
        _write(Path(arguments.html), shown.page(found, names))
    if arguments.markdown:
        print(shown.markdown(found, names, arguments.most), end="")
    else:
        console.print(shown.terminal(found, names, arguments.most), highlight=False)
    return 1 if arguments.fail_on_change and found else 0


def ledger_at(root: Path, name: str) -> tuple[str, list[dict[str, Any]]]:
    """Return what to call, and the rows of, the ledger in a folder, or the one pinned at a commit; a folder comes first."""
    from replica.claims.ledger import parse_ledger, read_ledger
    from replica.sharing.checkout import git

    folder = Path(name)
    if folder.is_dir():
        if not (folder / LEDGER).is_file():
            raise ResultError(f"{folder}: no {LEDGER} in this folder; name a folder of results, or a commit")
        return name, read_ledger(folder / LEDGER)
    found = git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}", check=False)
    if found.returncode:
        raise ConfigError(
            f"'{name}': neither a folder nor a commit of this repository (a shallow clone lacks old ones)"
        )
    stored = git(root, "show", f"{found.stdout.strip()}:./{PINNED}", check=False)
    if stored.returncode:
        raise ResultError(f"'{name}': no {PINNED} at this commit; `replica pin` and a commit put it there")
    return name, parse_ledger(stored.stdout, f"{PINNED} at {name}")


def ledger_here(root: Path) -> tuple[str, list[dict[str, Any]]]:
    """Return what to call, and the rows of, the working copy's ledger: of the last run, or what is pinned where none was made."""
    from replica.claims.ledger import read_ledger

    path = root / "results" / LEDGER
    if not path.exists() and (root / PINNED).exists():
        path = root / PINNED
    return path.relative_to(root).as_posix(), read_ledger(path)


def _write(path: Path, page: str) -> None:
    if path.is_dir():
        raise ConfigError(f"--html {path}: is a folder; name the file to write")
    try:
        write_text(path, page)
    except OSError as error:
        raise ConfigError(f"--html {path}: cannot be written: {error.strerror}") from None
