"""Imports between the packages of `replica` point one way."""

from __future__ import annotations

import ast
from pathlib import Path

import replica

SOURCE = Path(replica.__file__).parent
#: Each layer may import those before it. Packages of one layer may import one another in one direction only.
LAYERS = (
    ("__version__", "errors", "files", "paths", "seals", "secrets"),
    ("config",),
    ("claims",),
    ("assets", "models", "tasks"),
    ("meters",),
    ("methods",),
    ("measure", "plan"),
    ("training", "report"),
    ("jobs",),
    ("sharing",),
    ("cli",),
)
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names}


def _imports() -> dict[tuple[str, str], list[str]]:
    """Return, for each pair of packages of which the first imports the second, the lines that do; also those inside functions."""
    lines: dict[tuple[str, str], list[str]] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == "replica":
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("replica."):
                targets = [node.module.split(".")[1]]
            elif isinstance(node, ast.Import):
                targets = [alias.name.split(".")[1] for alias in node.names if alias.name.startswith("replica.")]
            else:
                continue
            for target in targets:
                if target != parts[0]:
                    lines.setdefault((parts[0], target), []).append(f"{'/'.join(parts)}.py:{node.lineno}")
    return lines


def test_every_package_has_its_layer():
    packages = {
        path.name.removesuffix(".py")
        for path in SOURCE.iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert packages - {"__init__"} <= set(LAYER), "put a new package into LAYERS and into docs/architecture.md"


def test_imports_point_to_earlier_layers():
    wrong = {pair: lines for pair, lines in _imports().items() if LAYER[pair[0]] < LAYER[pair[1]]}
    assert not wrong


def test_no_two_packages_import_each_other():
    pairs = set(_imports())
    assert not {pair for pair in pairs if pair[::-1] in pairs}
