"""Prepare a task: turn a retrieved data set into parquet files of token ids for one tokenizer."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from replica.errors import ConfigError, ReplicaError, nearest


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", required=True, help="name of a file in config/tasks, without .yaml")
    parser.add_argument("--dataset", required=True, type=Path, help="folder of the retrieved data set")
    parser.add_argument("--tokenizer", required=True, type=Path, help="folder of the model whose tokenizer it is")
    parser.add_argument("--out", required=True, type=Path, help="folder to write; replaced in one step")
    parser.add_argument("--max-length", type=int, help="tokens; cuts the task's own length")
    parser.add_argument("--root", type=Path, default=Path(), help="the project's folder (default: here)")
    options = parser.parse_args(arguments)
    try:
        from replica.config import load_project
        from replica.tasks import prepare

        tasks = load_project(options.root).tasks
        if options.task not in tasks:
            raise ConfigError(f"unknown task '{options.task}'{nearest(options.task, tasks)}")
        facts = prepare(tasks[options.task], options.dataset, options.tokenizer, options.out, options.max_length)
    except ReplicaError as error:
        print(f"prepare: {error}", file=sys.stderr)
        return 2
    rows = ", ".join(f"{split} {count}" for split, count in facts["rows"].items())
    print(f"{options.task}: {rows} rows, {sum(facts['tokens'].values())} tokens -> {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
