"""`replica diff A B`: changed verdicts and numbers between the results of two commits, or of two folders."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from replica.cli.terminal import console
from replica.errors import ConfigError, ResultError
from replica.files import write_text

LEDGER = "claims.json"
PINNED = f"results/pinned/{LEDGER}"


def add(verbs: Any) -> None:
    """Add the verb `diff` to the command line."""
    verb = verbs.add_parser(
        "diff",
        help="changed verdicts and numbers between two commits' pinned results, or two folders",
        epilog="exit status: 0, or 1 where something differs and --fail-on-change is set; 2 for a mistake",
    )
    verb.set_defaults(run=diff)
    verb.add_argument("before", metavar="A", help="a commit (branch, tag, HEAD~1), or a folder with claims.json")
    verb.add_argument(
        "after", metavar="B", nargs="?", help="the same (default: results/claims.json here, else the pinned one)"
    )
    verb.add_argument("--markdown", action="store_true", help="print Markdown, for a pull request's comment")
    verb.add_argument("--html", metavar="FILE", help="also write a page with every difference")
    verb.add_argument(
        "--most", type=int, default=40, metavar="N", help="rows of each printed table, 0 for all (default: 40)"
    )
    verb.add_argument("--fail-on-change", action="store_true", help="exit with status 1 where something differs")


def diff(arguments: Namespace) -> int:
    """Print the differences, with `--html` write them as a page; 1 with `--fail-on-change` where there are any, else 0."""
    from replica.claims.changes import changes
    from replica.report import ledger_diff as shown

    root = Path(arguments.root)
    if arguments.most < 0:
        raise ConfigError(f"--most {arguments.most}: give a number of rows, or 0 for all")
    before = ledger_at(root, arguments.before)
    after = ledger_at(root, arguments.after) if arguments.after is not None else ledger_here(root)
    names = (before[0], after[0])
    differences = changes(before[1], after[1], names)
    if arguments.html:
        _write(Path(arguments.html), shown.page(differences, names))
    if arguments.markdown:
        print(shown.markdown(differences, names, arguments.most), end="")
    else:
        console.print(shown.terminal(differences, names, arguments.most))
    return 1 if arguments.fail_on_change and differences else 0


def ledger_at(root: Path, name: str) -> tuple[str, list[dict[str, Any]]]:
    """Return the name and the rows of the ledger in a folder, or of the one pinned at a commit; a folder comes first."""
    from replica.claims.ledger import parse_ledger, read_ledger
    from replica.sharing.checkout import git, words

    folder = Path(name)
    if folder.is_dir():
        if not (folder / LEDGER).is_file():
            raise ResultError(f"{folder}: no {LEDGER} in this folder; name a folder of results, or a commit")
        return name, read_ledger(folder / LEDGER)
    commit = git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}", check=False)
    if commit.returncode:
        why = words(commit) if commit.stderr.strip() else "a shallow clone lacks old ones"
        raise ConfigError(f"'{name}': neither a folder nor a commit of this repository ({why})")
    stored = git(root, "show", f"{commit.stdout.strip()}:./{PINNED}", check=False)
    if stored.returncode:
        raise ResultError(f"'{name}': no {PINNED} at this commit; `replica pin` and a commit put it there")
    return name, parse_ledger(stored.stdout, f"{PINNED} at {name}")


def ledger_here(root: Path) -> tuple[str, list[dict[str, Any]]]:
    """Return the name and the rows of the working copy's ledger: that of the last run, or the pinned one where there is none."""
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
