"""`replica lock` and `replica mirror`: commits of the hub, and mirrors for machines without a network."""

from __future__ import annotations

import os
from argparse import Namespace
from pathlib import Path
from typing import Any

from replica.cli.terminal import plan_options, planned
from replica.errors import AssetError


def add(verbs: Any) -> None:
    """Add the verbs `lock` and `mirror` to the command line."""
    pins = verbs.add_parser(
        "lock", help="write the hub's commits and digests of data sets and models to config/hub.lock.yaml"
    )
    pins.set_defaults(run=lock)
    pins.add_argument("names", nargs="*", metavar="NAME", help="data sets and models (default: all that the hub has)")
    mode = pins.add_mutually_exclusive_group()
    mode.add_argument("--update", action="store_true", help="move to the hub's commits of now")
    mode.add_argument(
        "--check",
        action="store_true",
        help="write nothing; list commits that moved on the hub, and files that are gone or changed",
    )

    copies = verbs.add_parser(
        "mirror", help="copy papers' data and models from the hub into a folder, for REPLICA_MIRROR"
    )
    actions = copies.add_subparsers(dest="action", required=True, metavar="ACTION")
    sync = actions.add_parser("sync", help="copy into a mirror the assets that papers need and it lacks")
    sync.set_defaults(run=mirror)
    sync.add_argument("folder", metavar="FOLDER", help="folder of the mirror, made where there is none")
    plan_options(sync)
    sync.add_argument(
        "--rows",
        type=int,
        metavar="N",
        help="cut longer splits to N rows, as `<split>_subset`: to look at, never for a result",
    )


def lock(arguments: Namespace) -> int:
    """Lock the hub's commits; ends with an error that names those that could not be locked, after the others were."""
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
        raise AssetError(f"{len(outcome.failed)} of {total} are not as locked, each named above with its remedy")
    return 0


def mirror(arguments: Namespace) -> int:
    """Copy papers' data and models into a mirror."""
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
        raise AssetError(f"{folder} lacks {len(missing)} needed assets, each named above with its remedy")
    print(f"use it: export REPLICA_MIRROR={folder.resolve()}")
    return 0


def _quiet() -> None:
    """Silence the hub client's own report of each try: one line of ours tells it."""
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
