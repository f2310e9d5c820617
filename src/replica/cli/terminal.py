"""Shared by the verbs: options that several take, the terminal, the plan of the papers named."""

from __future__ import annotations

import argparse
from argparse import Namespace
from typing import Any, NoReturn

from rich.console import Console

from replica.config import Project, load_project
from replica.plan import Plan, build_plan


def plain_console(**options: Any) -> Console:
    """Return a console that prints text as it is: brackets, colons and numbers in it have no meaning for the terminal."""
    return Console(markup=False, emoji=False, highlight=False, **options)


console = plain_console(soft_wrap=True)


class OneLine(argparse.ArgumentParser):
    """A parser whose complaint is one line that says where help is."""

    def error(self, message: str) -> NoReturn:
        """Print the mistake and leave with status 2."""
        self.exit(2, f"error: {message} (`{self.prog} --help`)\n")


def scale_option(verb: argparse.ArgumentParser) -> None:
    """Add `--scale`."""
    verb.add_argument("--scale", help="smoke, laptop or paper (default: config/config.yaml)")


def plan_options(verb: argparse.ArgumentParser) -> None:
    """Add papers, `--scale` and `--all`, which `planned` reads."""
    verb.add_argument("papers", nargs="*", metavar="PAPER", help="papers (default: those that are enabled)")
    scale_option(verb)
    all_option(verb)


def all_option(verb: argparse.ArgumentParser) -> None:
    """Add `--all`."""
    verb.add_argument("--all", action="store_true", help="also the trends that are not marked quick")


def planned(arguments: Namespace) -> tuple[Project, Plan]:
    """Return the project and the plan of the named papers (enabled in config/config.yaml or not), or of the enabled ones."""
    papers = list(dict.fromkeys(arguments.papers)) or None
    project = load_project(arguments.root, quick=False if arguments.all else None, papers=papers)
    return project, build_plan(project, arguments.scale)


def print_text(text: str) -> None:
    """Print text as it is."""
    console.print(text)


def shortened(names: list[str], most: int) -> str:
    """Return the first `most` names as a list with commas, and an ellipsis where there are more."""
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")
