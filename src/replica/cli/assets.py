"""What `replica lock` and `replica mirror` do: commits of the hub, and mirrors for machines without a network."""

from __future__ import annotations

import argparse
import os
from argparse import Namespace
from pathlib import Path

from replica.errors import AssetError


def add(verbs: argparse._SubParsersAction) -> None:
    """Add the verbs `lock` and `mirror` to the command line."""
    lock = verbs.add_parser(
        "lock", help="write the hub's commits and digests of data sets and models to config/hub.lock.yaml"
    )
    lock.add_argument("names", nargs="*", metavar="NAME", help="data sets and models (default: all that the hub has)")
    what = lock.add_mutually_exclusive_group()
    what.add_argument("--update", action="store_true", help="move to the hub's commits of now")
    what.add_argument(
        "--check", action="store_true", help="write nothing; say what moved on the hub, and what is gone or changed"
    )

    mirror = verbs.add_parser("mirror", help="copy what papers need from the hub into a folder, for REPLICA_MIRROR")
    actions = mirror.add_subparsers(dest="action", required=True, metavar="ACTION")
    sync = actions.add_parser("sync", help="bring a mirror up to what papers need; what is there already stays")
    sync.add_argument("folder", metavar="FOLDER", help="folder of the mirror, made where there is none")
    sync.add_argument("papers", nargs="*", metavar="PAPER", help="papers (default: those of config/config.yaml)")
    sync.add_argument("--scale", help="smoke, laptop or paper (default: config/config.yaml)")
    sync.add_argument("--all", action="store_true", help="also for the trends that are not marked quick")
    sync.add_argument(
        "--rows",
        type=int,
        metavar="N",
        help="cut longer splits to N rows, as `<split>_subset`: to look at, never for a result",
    )


def lock(arguments: Namespace) -> int:
    """Lock the hub's commits; ends with an error that names what could not be locked, after the others were."""
    from replica.assets.lock import lock as lock_assets
    from replica.config import load_project

    _quiet()
    outcome = lock_assets(load_project(arguments.root), arguments.names, update=arguments.update, check=arguments.check)
    for line in outcome.lines:
        print(line)
    for line in outcome.failed:
        print(f"not as it should be: {line}")
    if outcome.failed:
        total = len(outcome.failed) + len(outcome.lines)
        raise AssetError(
            f"{len(outcome.failed)} of {total} are not as locked, each named above with what would be right"
        )
    return 0


def mirror(arguments: Namespace) -> int:
    """Copy what papers need into a mirror."""
    from replica.cli.verbs import planned
    from replica.sharing.sync import sync

    if arguments.rows is not None and arguments.rows < 1:
        raise AssetError(f"--rows {arguments.rows}: a split needs at least one row")
    _quiet()
    project, plan = planned(arguments)
    folder = Path(arguments.folder)
    missing = sync(project, plan, folder, lambda line: print(line, flush=True), most_rows=arguments.rows)
    for line in missing:
        print(f"not copied: {line}")
    if missing:
        raise AssetError(f"{folder} lacks {len(missing)} of what is needed, each named above with what would be right")
    print(f"use it: export REPLICA_MIRROR={folder.resolve()}")
    return 0


def _quiet() -> None:
    """Keep the hub's client from giving its own account of each try beside our one line."""
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
