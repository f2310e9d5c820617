"""Mutants: one small change of the source at a time, drawn by a seed, and the tests that should notice it.

    python tests/mutants.py --count 200 --seed 1 [--processes 2] [--only replica/tasks] [--out mutants.json]

works in a copy of the checkout. A mutant is killed where a test file that imports its module fails (or hangs); one that no such file
notices survives and is listed with file, line and change. Survivors are to be read: a change that means nothing (a message, a bound
that nothing can reach) is harmless, any other asks for a test of behaviour. The share of killed ones is printed. Each costs its tests: two seconds in `claims`, minutes in `methods`.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue

ROOT = Path(__file__).resolve().parents[1]
#: Seconds for the tests of one mutant; a mutant that takes longer is killed.
LIMIT = 600
#: Operators and what takes their place.
SWAPS = {
    ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "==", ast.In: "not in", ast.NotIn: "in",
    ast.Is: "is not", ast.IsNot: "is", ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*", ast.FloorDiv: "/", ast.Mod: "*",
    ast.And: "or", ast.Or: "and",
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """A change of the text between two places of a file."""

    file: str
    line: int
    start: int
    end: int
    before: str
    after: str


def mutants(path: Path) -> Iterator[Mutant]:
    """Yield every mutant of a file: operators, conditions, numbers and truth values; docstrings, messages and annotations stay."""
    text = path.read_text(encoding="utf-8")
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line.encode()))
    data = text.encode()

    def place(node: ast.AST) -> tuple[int, int]:
        return starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset

    def made(node: ast.AST, start: int, end: int, after: str) -> Mutant:
        return Mutant(str(path.relative_to(ROOT)), node.lineno, start, end, data[start:end].decode(), after)

    def between(node: ast.AST, left: ast.AST, right: ast.AST, operator: ast.AST) -> Iterator[Mutant]:
        start, end = place(left)[1], place(right)[0]
        gap = data[start:end].decode()
        if type(operator) in SWAPS and "#" not in gap and gap.strip(" \n()"):
            word = gap.strip(" \n()")
            at = gap.index(word)
            yield made(node, start + at, start + at + len(word.encode()), SWAPS[type(operator)])

    for node in _code(ast.parse(text)):
        if isinstance(node, ast.Compare):
            operands = [node.left, *node.comparators]
            for left, right, operator in zip(operands, operands[1:], node.ops, strict=False):
                yield from between(node, left, right, operator)
        elif isinstance(node, ast.BinOp):
            yield from between(node, node.left, node.right, node.op)
        elif isinstance(node, ast.BoolOp):
            for left, right in zip(node.values, node.values[1:], strict=False):
                yield from between(node, left, right, node.op)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            start, end = place(node)[0], place(node.operand)[0]
            yield made(node, start, end, "")
        elif isinstance(node, ast.If | ast.IfExp | ast.While):
            start, end = place(node.test)
            yield made(node, start, end, f"not ({data[start:end].decode()})")
        elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
            yield made(node, *place(node), str(not node.value))
        elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            yield made(node, *place(node), repr(node.value + 1))


def _code(tree: ast.AST) -> Iterator[ast.AST]:
    """Walk a tree without annotations, f-strings and what an error says."""
    left = [tree]
    while left:
        node = left.pop()
        if isinstance(node, ast.Raise | ast.JoinedStr | ast.Assert):
            continue
        yield node
        for name, value in ast.iter_fields(node):
            if name not in ("annotation", "returns", "decorator_list", "type_params"):
                left += [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, ast.AST)]


def tests_of(file: str) -> list[str]:
    """Return the test files that import a module by its name, else those that import its package."""
    module = Path(file).relative_to("src").with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
    package, _, name = module.rpartition(".")
    texts = {
        path: path.read_text(encoding="utf-8")
        for folder in ("unit", "methods")
        for path in (ROOT / "tests" / folder).glob("test_*.py")
    }
    words = (f"from {module} import", f"import {module}", f'"{module}')

    def imports(text: str) -> bool:
        lines = (
            line
            for line in text.splitlines()
            if line.startswith((f"from {package} import", f"    from {package} import"))
        )
        return any(word in text for word in words) or any(
            name in line.split("import")[1].replace(",", " ").split() for line in lines
        )

    chosen = [path for path, text in texts.items() if imports(text)]
    parts = package.split(".")
    while not chosen and len(parts) > 1:
        chosen = [
            path for path, text in texts.items() if f"from {'.'.join(parts)}" in text or f"_{parts[-1]}" in path.name
        ]
        parts.pop()
    return sorted(str(path.relative_to(ROOT)) for path in chosen)


def survives(mutant: Mutant, copy: Path) -> bool:
    """Change the file in a copy of the checkout, run its tests there, and change it back; returns whether all passed."""
    path = copy / mutant.file
    whole = path.read_bytes()
    path.write_bytes(whole[: mutant.start] + mutant.after.encode() + whole[mutant.end :])
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests_of(mutant.file)]
    environment = {
        **os.environ,
        "PYTHONPATH": str(copy / "src"),
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    try:
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, timeout=LIMIT, check=False)
        return done.returncode == 0
    except subprocess.TimeoutExpired:
        return False
    finally:
        path.write_bytes(whole)


def main() -> int:
    """Draw mutants, run their tests and print the survivors; returns 1 where more than a tenth survive."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200, help="mutants to draw (default: 200)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the draw (default: 1)")
    parser.add_argument("--processes", type=int, default=2, help="mutants at a time (default: 2)")
    parser.add_argument(
        "--only", default="replica", metavar="PATH", help="file or folder below src/ (default: replica)"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the outcome of each as JSON")
    arguments = parser.parse_args()
    place = ROOT / "src" / arguments.only
    files = [place] if place.is_file() else sorted(place.rglob("*.py"))
    known = [mutant for path in files for mutant in mutants(path) if tests_of(str(path.relative_to(ROOT)))]
    drawn = random.Random(arguments.seed).sample(known, min(arguments.count, len(known)))
    outcomes = []
    with tempfile.TemporaryDirectory() as scratch:
        copies: SimpleQueue[Path] = SimpleQueue()
        for number in range(arguments.processes):
            ignore = shutil.ignore_patterns(".venv", ".git", "assets", "state", "logs", ".snakemake", "__pycache__")
            copies.put(Path(shutil.copytree(ROOT, Path(scratch) / str(number), ignore=ignore, symlinks=True)))

        def judge(mutant: Mutant) -> None:
            copy = copies.get()
            outcome = {**asdict(mutant), "survived": survives(mutant, copy)}
            copies.put(copy)
            outcomes.append(outcome)
            word = "SURVIVED" if outcome["survived"] else "killed"
            print(
                f"{len(outcomes)}/{len(drawn)} {word} {mutant.file}:{mutant.line}: {mutant.before!r} -> {mutant.after!r}",
                flush=True,
            )

        with ThreadPoolExecutor(arguments.processes) as pool:
            list(pool.map(judge, drawn))
    if arguments.out:
        arguments.out.write_text(json.dumps(outcomes, indent=1) + "\n", encoding="utf-8")
    killed = sum(not outcome["survived"] for outcome in outcomes)
    print(f"{killed} of {len(outcomes)} mutants killed")
    return int(killed < 0.9 * len(outcomes))


if __name__ == "__main__":
    sys.exit(main())
