"""The commands of docs/assets.md are commands, and the assets they name are registered."""

import re
import shlex
from pathlib import Path

import pytest

from replica.cli import parser
from replica.config import load_project

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "assets.md").read_text(encoding="utf-8")
COMMANDS = sorted(
    {line.partition("#")[0].strip() for line in TEXT.splitlines() if line.startswith("replica ")}
    | set(re.findall(r"`(replica (?:lock|mirror)[^`]*)`", TEXT))
)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c != "replica mirror sync"])
def test_every_command_is_one(command):
    arguments = parser().parse_args(shlex.split(command)[1:])
    project = load_project(ROOT)
    assert set(getattr(arguments, "names", [])) <= {*project.datasets, *project.models}
    assert set(getattr(arguments, "papers", [])) <= set(project.paper_folders)


def test_there_are_commands_and_the_page_is_linked():
    assert len(COMMANDS) > 5
    assert "(assets.md)" in (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
