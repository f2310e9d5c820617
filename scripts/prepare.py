"""Prepare a task: turn a retrieved data set into parquet files of token ids for one tokenizer."""

from __future__ import annotations

import argparse
from pathlib import Path

from replica.errors import AssetError, ConfigError, nearest
from replica.jobs.programs import importing, main


def program(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", required=True, help="name of a task in config/tasks")
    parser.add_argument("--dataset", required=True, type=Path, help="folder of the retrieved data set")
    parser.add_argument("--tokenizer", required=True, type=Path, help="folder of the model whose tokenizer it is")
    parser.add_argument("--out", required=True, type=Path, help="folder to write; replaced in one step")
    parser.add_argument("--max-length", type=int, help="tokens; cuts the task's own length")
    parser.add_argument("--root", type=Path, default=Path(), help="the project's folder (default: here)")
    options = parser.parse_args(arguments)

    from replica.assets import manifest
    from replica.config import load_project
    from replica.files import check_dates

    with importing():
        from replica.tasks import prepare

    project = load_project(options.root)
    if options.task not in project.tasks:
        raise ConfigError(f"unknown task '{options.task}'{nearest(options.task, project.tasks)}")
    task = project.tasks[options.task]
    check_dates(folder / manifest.NAME for folder in (options.dataset, options.tokenizer))
    held = manifest.verify(options.dataset, asset="dataset").get("splits", {})
    for split, pinned in project.dataset(task.dataset).splits.items():
        if pinned is not None and split in held and held[split]["sha256"] != pinned.sha256:
            raise AssetError(
                f"{options.dataset}: split '{split}' has rows with sha256 {held[split]['sha256']}, config/datasets.yaml pins "
                f"{pinned.sha256}; remove the folder to retrieve it again, or correct the pin"
            )
    manifest.verify(options.tokenizer, asset="model")
    inputs = {"dataset": manifest.digest(options.dataset), "tokenizer": manifest.digest(options.tokenizer)}
    facts = prepare(task, options.dataset, options.tokenizer, options.out, options.max_length, inputs)
    rows = ", ".join(f"{split} {count}" for split, count in facts["rows"].items())
    print(f"{options.task}: {rows} rows, {sum(facts['tokens'].values())} tokens -> {options.out}")


if __name__ == "__main__":
    main(program)
