"""A small, safe language for the numbers of a claim: names of measurements and runs, arithmetic and a few functions.

Names are dotted, and their parts may hold digits and dashes: `bert-base.parameters.total`, `runs.student-6x384.sst2.accuracy`.
Precedence: a dash that touches name characters on both sides belongs to the name, so **a minus between names needs spaces**:
`a-b` is one name, `a - b` is a difference. Characters outside letters, digits, `_`, `-` and `.` go between backticks:
`` `compacter++`.parameters.total ``. Everything else is as in Python: `+ - * / **`, parentheses and the functions of `FUNCTIONS`.
All numbers are floats; a result that is not a finite real number is an error.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from replica.config.patterns import NAME, PART
from replica.errors import ConfigError, nearest


class UnknownName(ConfigError):
    """An expression uses a name that no measurement or run gives."""


def _round(value: float, digits: float = 0.0) -> float:
    return float(round(value, int(digits)))


def _mean(*values: float) -> float:
    return math.fsum(values) / len(values)


#: Functions an expression may call, and the least and greatest number of their arguments (None: any number).
FUNCTIONS: dict[str, tuple[Callable[..., float], int, int | None]] = {
    "round": (_round, 1, 2),
    "min": (lambda *values: min(values), 1, None),
    "max": (lambda *values: max(values), 1, None),
    "mean": (_mean, 1, None),
    "abs": (abs, 1, 1),
    "log2": (math.log2, 1, 1),
    "exp": (math.exp, 1, 1),
}

_OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.Pow: math.pow,
}

#: Most characters of an expression, and levels of its tree; a sum adds a level with each term.
MOST_CHARACTERS, MOST_LEVELS = 10_000, 300
_SPACE, _CALLED = re.compile(r"\s+"), re.compile(r"\s*\(")
_NUMBER = re.compile(r"(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?(?![\w`]|\.\w)(?!-[A-Za-z_`])")
_OPERATOR = re.compile(r"\*\*|[-+*/(),]")


@dataclass(frozen=True)
class Expression:
    """A parsed expression: its text, its tree, and its names by their placeholders in the tree."""

    text: str
    tree: ast.expr
    placeholders: Mapping[str, str]

    @property
    def names(self) -> set[str]:
        """The dotted names the expression uses, without backticks."""
        return set(self.placeholders.values())

    def value(self, known: Mapping[str, float]) -> float:
        """Return the expression's value; `known` gives a number to every name, else `UnknownName` with the nearest one."""
        for name in sorted(self.names):
            if name not in known:
                raise UnknownName(f"{self._where()}: unknown name '{name}'{_hint(name, known)}")
        try:
            result = self._number(self.tree, known)
        except ZeroDivisionError:
            raise ConfigError(f"{self._where()}: division by zero") from None
        except (OverflowError, ValueError) as error:
            raise ConfigError(f"{self._where()}: {error}") from None
        if not math.isfinite(result):
            raise ConfigError(f"{self._where()}: the result {result} is not a finite real number")
        return result

    def _number(self, node: ast.expr, known: Mapping[str, float]) -> float:
        match node:
            case ast.Constant(value=value):
                return float(value)
            case ast.Name(id=placeholder):
                return float(known[self.placeholders[placeholder]])
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -self._number(operand, known)
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return self._number(operand, known)
            case ast.BinOp(left=left, op=operator, right=right):
                return _OPERATORS[type(operator)](self._number(left, known), self._number(right, known))
            case ast.Call(func=ast.Name(id=function), args=arguments):
                return float(FUNCTIONS[function][0](*(self._number(argument, known) for argument in arguments)))
        raise AssertionError(f"node {type(node).__name__} passed the check")

    def _where(self) -> str:
        return _where(self.text)


def parse(text: str) -> Expression:
    """Parse an expression; ConfigError names the character, function or construct that is not part of the language."""
    text = str(text)
    if len(text) > MOST_CHARACTERS:
        raise ConfigError(f"{_where(text)} is longer than {MOST_CHARACTERS} characters")
    source, placeholders = _tokenize(text)
    try:
        tree = ast.parse(source, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ConfigError(
            f"{_where(text)} is not arithmetic over names and numbers (`a.b - 2 * max(c.d, 1)`)"
        ) from None
    _check(tree, text, 1)
    return Expression(text, tree, placeholders)


def names(expression: str) -> set[str]:
    """Return the dotted names that an expression uses, so that a plan knows the runs a claim needs."""
    return parse(expression).names


def evaluate(expression: str, known: Mapping[str, float]) -> float:
    """Parse an expression and return its value; `known` gives the numbers of its names."""
    return parse(expression).value(known)


def quoted(key: str) -> str:
    """Return a key as a part of a name: unchanged where it is name-like, else between backticks."""
    if "`" in key:
        raise ConfigError(f"the key '{key}' holds a backtick, which no expression can name")
    return key if NAME.fullmatch(key) and not PART.search(key) else f"`{key}`"


def split_run(name: str, runs: Iterable[str]) -> tuple[str, str]:
    """Split `runs.<run>.<rest>` into run and rest by the longest run name that fits; UnknownName when none does."""
    rest = name.removeprefix("runs.")
    runs = list(runs)
    fitting = [run for run in runs if rest.startswith(run + ".")]
    if not fitting:
        tried = rest.split(".")[0]
        raise UnknownName(f"'{name}' names no run: expected runs.<run>.<task>.<metric>{nearest(tried, runs)}")
    run = max(fitting, key=len)
    return run, rest[len(run) + 1 :]


def split_list(text: str) -> list[str]:
    """Split at commas outside parentheses."""
    parts, depth, at = [], 0, 0
    for index, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if character == "," and depth == 0:
            parts.append(text[at:index].strip())
            at = index + 1
    return [*parts, text[at:].strip()]


def _tokenize(text: str) -> tuple[str, dict[str, str]]:
    source, placeholders, at = [], {}, 0
    by_name: dict[str, str] = {}
    while at < len(text):
        if match := _SPACE.match(text, at):
            source.append(" ")
        elif match := _NUMBER.match(text, at):
            source.append(match.group())
        elif (match := NAME.match(text, at)) and not PART.search(match.group()):
            name = match.group().replace("`", "")
            if _CALLED.match(text, match.end()):
                if name not in FUNCTIONS:
                    raise ConfigError(f"{_where(text)}: unknown function '{name}'{nearest(name, FUNCTIONS)}")
                source.append(name)
            else:
                placeholder = by_name.setdefault(name, f"_{len(by_name)}")
                placeholders[placeholder] = name
                source.append(placeholder)
        elif match := _OPERATOR.match(text, at):
            source.append(match.group())
        else:
            raise ConfigError(
                f"{_where(text)}: '{text[at]}' at position {at + 1} is not part of the language; a name with "
                "such a character goes between backticks"
            )
        at = match.end()
    return "".join(source).strip(), placeholders


def _where(text: str) -> str:
    return f"expression '{text if len(text) <= 200 else text[:200] + '…'}'"


def _check(node: ast.expr, text: str, level: int) -> None:
    if level > MOST_LEVELS:
        raise ConfigError(f"{_where(text)} nests more than {MOST_LEVELS} levels deep")
    match node:
        case ast.Constant(value=value) if isinstance(value, int | float) and not isinstance(value, bool):
            return None
        case ast.Name():
            return None
        case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
            return _check(operand, text, level + 1)
        case ast.BinOp(left=left, op=operator, right=right) if type(operator) in _OPERATORS:
            _check(left, text, level + 1)
            return _check(right, text, level + 1)
        case ast.Call(func=ast.Name(id=function), args=arguments, keywords=[]) if function in FUNCTIONS:
            _, least, most = FUNCTIONS[function]
            if len(arguments) < least or (most is not None and len(arguments) > most):
                raise ConfigError(f"{_where(text)}: {function}() takes {_count(least, most)}, got {len(arguments)}")
            for argument in arguments:
                _check(argument, text, level + 1)
            return None
    raise ConfigError(f"{_where(text)}: {type(node).__name__} is not part of the language (+ - * / **, functions)")


def _count(least: int, most: int | None) -> str:
    if most is None:
        return f"at least {least} argument"
    return f"{least} argument" if least == most else f"{least} to {most} arguments"


def _hint(name: str, known: Iterable[str]) -> str:
    known = list(known)
    parts = name.split("-")
    if any("-".join(parts[:i]) in known for i in range(1, len(parts))):
        return " (a minus between names needs spaces)"
    return nearest(name, known)
