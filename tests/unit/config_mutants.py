"""Bad configurations made at random from this checkout's own files, and what reading and planning say of them."""

from __future__ import annotations

import copy
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from replica.config import load_project
from replica.config.schema import Train
from replica.config.yaml_files import read_yaml
from replica.errors import ConfigError
from replica.plan import build_plan, outputs
from replica.plan.run_job import stored_plan

#: Seconds after which reading and planning of one mutant count as a process without end.
LIMIT = 30
#: Papers whose files are changed: between them they have sets, groups, bases, matrices, CSV tables, figures, teachers, tuned rates.
PAPERS = ("compacter", "dsee", "deft", "mixda", "ernie_tiny", "slimfit", "early_bird_theory", "kadaptation", "vega")
OTHERS = ("config.yaml", "datasets.yaml", "models.yaml", "scales/smoke.yaml", "scales/laptop.yaml", "scales/paper.yaml")
TASKS = ("glue", "smoke", "rotten-tomatoes", "imdb", "reading", "images", "smoke-scenes", "wikipedia")

Keys = tuple[Any, ...]
#: Keys whose values are names of something, by the last key of their path (an item of a list: the list's key).
REFERENCES = {
    *("model", "task", "teacher", "from", "targets", "base", "beside", "together", "evaluate", "methods", "name"),
    *("dataset", "tokenizer", "weights_of", "build", "generator", "loader", "standins", "train", "select", "report"),
    *("standin_models", "standin_tasks", "disabled", "sources", "scale", "kind", "stage", "claims", "head"),
}
#: Values that are text or data of any form, or names in the words of the paper alone.
FREE = {
    "value",
    "config",
    "options",
    "matrix",
    "sets",
    "tune",
    "series",
    "csv",
    "terms",
    "redistribute",
    "homepage",
    "meters",
}


@dataclass
class Mutant:
    """A file's new content; `refused` says whether it must not be accepted, and `hint` a word that the error shall offer."""

    kind: str
    file: str
    what: str
    content: bytes
    paper: str
    refused: bool
    hint: str = ""


class Mutants:
    """Draws mutants of a copy of the configuration, the same for the same seed."""

    def __init__(self, root: Path, folder: Path, seed: int):
        self.folder, self.random = folder, random.Random(seed)
        shutil.copytree(root / "config", folder / "config")
        self.known: dict[str, Any] = {}

    def draw(self) -> Mutant:
        """Return the next mutant."""
        while True:
            make = self.random.choice(KINDS)
            paper = self.random.choice(PAPERS)
            place = self.random.random()
            file = f"papers/{paper}/paper.yaml"
            if place > 0.55:
                file = self.random.choice(OTHERS) if place > 0.75 else f"tasks/{self.random.choice(TASKS)}.yaml"
            mutant = make(self, f"config/{file}", paper)
            if mutant is not None:
                return mutant

    def outcome(self, mutant: Mutant) -> tuple[str, str]:
        """Return `accepted`, `refused` with the message, or what went wrong: `hangs` or `traceback`."""
        path = self.folder / mutant.file
        before = path.read_bytes()
        path.write_bytes(mutant.content)
        signal.signal(signal.SIGALRM, _late)
        signal.alarm(LIMIT)
        try:
            project = load_project(self.folder, papers=[mutant.paper], quick=False)
            for scale in self.random.sample(("smoke", "laptop", "paper"), 3):
                stored_plan(project, build_plan(project, scale))
            for part in ("claims", "measurements", "layout"):
                outputs.fingerprint(project.paper(mutant.paper), part, project)
        except ConfigError as error:
            return "refused", str(error)
        except _Late:
            return "hangs", ""
        except Exception as error:
            return "traceback", f"{type(error).__name__}: {error}"[:300]
        finally:
            signal.alarm(0)
            path.write_bytes(before)
        return "accepted", ""

    def value(self, file: str) -> Any:
        """Return a copy of a file's content."""
        if file not in self.known:
            self.known[file] = read_yaml(self.folder / file)
        return copy.deepcopy(self.known[file])

    def leaves(self, file: str) -> list[tuple[Keys, Any]]:
        """Return path and value of all numbers, texts and truth values of a file."""
        return list(_leaves(self.value(file), ()))


class _Late(BaseException):
    pass


def _late(*_: object) -> None:
    raise _Late


def _leaves(value: Any, path: Keys) -> Iterator[tuple[Keys, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        yield path, value
        return
    for key, inner in items:
        yield from _leaves(inner, (*path, key))


def _put(value: Any, path: Keys, new: Any) -> Any:
    """Return a value with another one at a path; `...` as the new one takes the key away."""
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    if new is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = new
    return value


def _dump(value: Any) -> bytes:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=200).encode()


def _named(path: Keys) -> str:
    """Return the last key of a path that is a word."""
    return next((str(key) for key in reversed(path) if isinstance(key, str)), "")


def _typo(draw: random.Random, word: str) -> str:
    at = draw.randrange(len(word))
    return draw.choice(
        (word[:at] + "q" + word[at:], word[:at] + "zq" + word[at + 1 :], f"{word}x", word.swapcase() + "0")
    )


def reference(self: Mutants, file: str, paper: str) -> Mutant | None:
    """Change a letter of a name."""
    fitting = [
        (path, value)
        for path, value in self.leaves(file)
        if isinstance(value, str)
        and _named(path) in REFERENCES
        and not FREE & set(path[:-1])
        and _is_reference(path, file, value)
    ]
    if not fitting:
        return None
    path, value = self.random.choice(fitting)
    new = _typo(self.random, value)
    content = _dump(_put(self.value(file), path, new))
    return Mutant("reference", file, f"{path}: {new}", content, paper, True, value)


def _is_reference(path: Keys, file: str, value: str) -> bool:
    """Return whether a text under a key of REFERENCES is a name that something must have."""
    if "{" in value or " " in value or not value:
        return False
    kind, first = file.split("/")[1], path[0]
    if kind == "papers":
        if first == "claims":  # there `model`, `dataset` and so on are words for the reader
            return False
        if first == "runs":
            if "methods" in path:
                return path[-2] == "methods" or path[-1] == "name"
            return (
                len(path) > 3
                and (path[-1] == "name" or path[3] in REFERENCES - {"train", "name"})
                and path[-1] != "description"
            )
        return (first == "measurements" and path[-1] in ("model", "dataset", "head", "name")) or (
            first == "tables" and "claims" in path
        )
    if kind == "tasks":
        own = path[2:] if first == "tasks" else path
        return (own[0] in ("dataset", "kind", "standins", "splits") and own[-1] != "by") or (
            own[:1] == ("metrics",) and own[-1] == "name"
        )
    if kind == "datasets.yaml":
        return path[2] in ("standins", "build") or path[-1] in ("generator", "loader")
    if kind == "models.yaml":
        return path[2] in ("tokenizer", "weights_of", "standins") or path[-1] == "generator"
    return first in ("standin_models", "standin_tasks", "sources", "disabled", "scale")


def number(self: Mutants, file: str, paper: str) -> Mutant | None:
    """Put what is no number, or one that nothing can have, in a number's place."""
    fitting = [
        (path, value)
        for path, value in self.leaves(file)
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]
    if not fitting:
        return None
    path, _ = self.random.choice(fitting)
    new = self.random.choice((float("nan"), float("inf"), 10**30, -(10**19), "many", True, {"a": 1}))
    free = FREE & set(map(str, path)) or _named(path) in ("methods", "arms")
    refused = not isinstance(new, dict | str | bool) or not free
    if isinstance(new, str | bool) and (
        "tolerance" in path or "only" in path or "methods" in path or "name" in path[-1:]
    ):
        refused = False
    return Mutant("number", file, f"{path}: {new}", _dump(_put(self.value(file), path, new)), paper, refused)


def bound(self: Mutants, file: str, paper: str) -> Mutant | None:
    """Put a number out of its bounds."""
    low = {
        *(
            "steps",
            "epochs",
            "batch_size",
            "learning_rate",
            "checkpoint_every",
            "seeds",
            "version",
            "max_length",
            "classes",
        ),
        *("threads", "mem_mb", "runtime", "gpus_per_node", "unit_scale", "max_grad_norm", "rows", "share"),
        *("num_hidden_layers", "hidden_size"),
    }
    fitting = [
        path
        for path, value in self.leaves(file)
        if path[-1] in low and isinstance(value, int | float) and "methods" not in path
    ]
    fitting += [path for path, value in self.leaves(file) if len(path) == 2 and path[0] == "seeds"]
    if not fitting:
        return None
    path = self.random.choice(fitting)
    new = self.random.choice((-1, -0.5, 10**13))
    refused = not (new == 10**13 and path[-1] in ("max_grad_norm", "unit_scale")) and "meters" not in path
    return Mutant("bound", file, f"{path}: {new}", _dump(_put(self.value(file), path, new)), paper, refused)


def unknown_key(self: Mutants, file: str, paper: str) -> Mutant | None:
    """Add a key that nearly is one."""
    value, kind = self.value(file), file.split("/")[1]
    places: list[tuple[Keys, str]] = [
        ((), key)
        for key in ("claims", "runs", "title", "name", "kind", "seeds", "papers", "quick", "datasets", "models")
        if key in value
    ]
    if kind == "papers":
        runs = [("runs", section, name) for section, entries in value.get("runs", {}).items() for name in entries]
        places += [(path, "model") for path in runs] + [
            ((*path, "train"), "learning_rate") for path in runs if "train" in _at(value, path)
        ]
        places += [(("claims", index), "source") for index, claim in enumerate(value["claims"]) if "id" in claim]
        places += [
            (("claims", index, "trend"), "effect") for index, claim in enumerate(value["claims"]) if claim.get("trend")
        ]
        places += [((key, index), "title") for key in ("tables", "figures") for index in range(len(value.get(key, [])))]
        places += [(("measurements", name), "labels") for name in value.get("measurements", {})]
    elif kind in ("datasets.yaml", "models.yaml"):
        key = kind.removesuffix(".yaml")
        places += [((key, name), "licence") for name in value[key]] + [
            ((key, name, "sources"), "wheel") for name in value[key] if value[key][name].get("sources")
        ]
    elif kind == "scales":
        places += [(("train",), name) for name in Train.model_fields] if "train" in value else []
        places += [(("methods",), name) for name in value.get("methods", {})] + [
            (("methods", name), key) for name, own in value.get("methods", {}).items() for key in own
        ]
    if not places:
        return None
    path, key = self.random.choice(places)
    new = _typo(self.random, key)
    _at(value, path)[new] = {}
    return Mutant("unknown key", file, f"{path}: {new}", _dump(value), paper, True)


def _at(value: Any, path: Keys) -> Any:
    for key in path:
        value = value[key]
    return value


def wrong_type(self: Mutants, file: str, paper: str) -> Mutant | None:
    """Put a mapping or list in the place of a word, a number in that of a mapping."""
    leaves = self.leaves(file)
    path, _ = self.random.choice(leaves)
    path = path[: self.random.randint(1, len(path))]
    new = self.random.choice(({}, [], [[]], {"a": {"b": 1}}, 5, 2.5, True, None, "", "x", [None], "2026-99-99", {5: 5}))
    return Mutant("wrong type", file, f"{path}: {new!r}", _dump(_put(self.value(file), path, new)), paper, False)


def missing(self: Mutants, file: str, paper: str) -> Mutant | None:
    """Take a key or an item away."""
    path, _ = self.random.choice(self.leaves(file))
    path = path[: self.random.randint(1, len(path))]
    return Mutant("missing", file, str(path), _dump(_put(self.value(file), path, ...)), paper, False)


def twice(self: Mutants, file: str, paper: str) -> Mutant | None:
    """Give an id twice."""
    file = f"config/papers/{paper}/paper.yaml"
    value = self.value(file)
    key = self.random.choice([key for key in ("claims", "tables", "figures") if value.get(key)])
    value[key].append(copy.deepcopy(self.random.choice(value[key])))
    return Mutant("twice", file, key, _dump(value), paper, True)


def registry_name(self: Mutants, file: str, paper: str) -> Mutant | None:
    """Give a registry's entry, or a task, a name that is no name."""
    new = self.random.choice(
        ("..", ".", "../x", "/tmp/x", "", "A b", ".hidden", "x/../../y", "a" * 200, "a\nb", 5, "é")
    )
    kind = self.random.choice(("datasets", "models", "tasks"))
    file = f"config/{'tasks/glue' if kind == 'tasks' else kind}.yaml"
    value = self.value(file)
    value[kind][new] = copy.deepcopy(self.random.choice(list(value[kind].values())))
    return Mutant("registry name", file, repr(new), _dump(value), paper, True)


def encoding(self: Mutants, file: str, paper: str) -> Mutant | None:
    """Save a file in another encoding."""
    text = (self.folder / file).read_text("utf-8")
    content = self.random.choice(
        (
            ("# André\n" + text).encode("latin-1", "replace"),
            text.encode("utf-16"),
            text.encode("utf-32"),
            b"\xff" + text.encode(),
        )
    )
    return Mutant("encoding", file, repr(content[:8]), content, paper, True)


#: Ends of a file that the library would trip over, run out of memory with, or run.
HOSTILE = (
    *("x: {{y}}", "? [a]\n: b", "x: !!int abc", "x: !!bool nope", "x: !!timestamp 2026-99-99", "x: " + "9" * 5000),
    *(
        "x: " + "[" * 100_000,
        "x: " + "{a: " * 500,
        "x: &a [*a]",
        "x: !!python/object/apply:os.system [ls]",
        "x: !!set {a}",
    ),
    *("x: !!binary aGk=", "<<: 5", "x: *nothing", "x: [&b [1,1],*b", "%YAML 9.9", "\0", "x: 1e999"),
    "l0: &l0 [1,1]\n" + "\n".join(f"l{n}: &l{n} [{','.join([f'*l{n - 1}'] * 9)}]" for n in range(1, 8)),
)


def hostile(self: Mutants, file: str, paper: str) -> Mutant | None:
    """Add what the library would trip over, run out of memory with, or run."""
    snippet = self.random.choice(HOSTILE)
    return Mutant(
        "hostile", file, snippet[:40], (self.folder / file).read_bytes() + f"\n{snippet}\n".encode(), paper, True
    )


def damage(self: Mutants, file: str, paper: str) -> Mutant | None:
    """Change, take away or add characters and lines."""
    tables = sorted((self.folder / file).parent.glob("*.csv"))
    if tables and self.random.random() < 0.3:
        file = self.random.choice(tables).relative_to(self.folder).as_posix()
    text = (self.folder / file).read_text("utf-8")
    for _ in range(self.random.randint(1, 3)):
        at = self.random.randrange(len(text))
        text = self.random.choice(
            (
                text[:at] + self.random.choice("{}[]:&*!%@`\"'\t,#|>?-\n\x85\u2028 ") + text[at:],
                text[:at] + text[at + self.random.randint(1, 20) :],
                text[:at],
                text[: text.find("\n", at) + 1] + text[text.rfind("\n", 0, at) + 1 :],
            )
        )
        text = text or "x"
    return Mutant("damage", file, "", text.encode(), paper, False)


EXPRESSIONS = (
    *(
        "1 +",
        "foo(1)",
        "1 // 2",
        "__import__('os').system('ls')",
        "runs..x",
        "(",
        "a" * 30_000,
        "-" * 9_000 + "1",
        "max()",
    ),
    *(
        "nothing.parameters.total",
        "1 if 2 else 3",
        "[1]",
        "runs.nothing.nothing.accuracy",
        "x = 1",
        "1; 2",
        "lambda: 1",
        "`",
    ),
    *("1 2", "é.b", "1e", "((" * 500 + "1" + "))" * 500, "abs(1, 2)", "True", "'text'", "methodcost"),
)


def expression(self: Mutants, file: str, paper: str) -> Mutant | None:
    """Put what is no expression, or names nothing, in an expression's place."""
    file = f"config/papers/{paper}/paper.yaml"
    fitting = [
        path
        for path, value in self.leaves(file)
        if isinstance(value, str)
        and ((path[-1] == "effect" and "trend" in path) or ("shows" in path) or ("arms" in path) or ("series" in path))
    ]
    if not fitting:
        return None
    path = self.random.choice(fitting)
    new = self.random.choice(EXPRESSIONS)
    return Mutant("expression", file, f"{path}: {new[:40]}", _dump(_put(self.value(file), path, new)), paper, True)


def chain(self: Mutants, file: str, paper: str) -> Mutant | None:
    """Let hundreds of runs be based on each other, or one make millions."""
    file = f"config/papers/{paper}/paper.yaml"
    value = self.value(file)
    sections = [
        section
        for section in value.get("runs", {})
        if any("stage" in entry for entry in value["runs"][section].values())
    ]
    if not sections:
        return None
    runs = value["runs"][self.random.choice(sections)]
    first = (
        next(name for name, entry in runs.items() if "stage" in entry and "{" not in name)
        if any("stage" in entry and "{" not in name for name, entry in runs.items())
        else None
    )
    if first is None:
        return None
    how = self.random.choice(("base", "from", "backwards", "matrix", "circle"))
    entry = {
        key: item
        for key, item in runs[first].items()
        if key not in ("model", "from", "matrix", "seeds", "tune", "teacher", "targets")
    }
    if how == "matrix":
        runs["many-{a}-{b}-{c}-{d}"] = {**runs[first], "matrix": {key: list(range(60)) for key in "abcd"}}
    elif how == "circle":
        runs["zz-a"], runs["zz-b"] = {"base": "zz-b"}, {"base": "zz-a"}
    else:
        links = [
            {
                f"zz-{n}": {"base": f"zz-{n - 1}" if n else first}
                if how == "base"
                else {**entry, "from": f"zz-{n - 1}" if n else first}
                for n in range(2000)
            }
        ]
        names = list(links[0])
        runs.update({name: links[0][name] for name in (reversed(names) if how == "backwards" else names)})
    return Mutant("chain", file, how, _dump(value), paper, True)


KINDS: list[Callable[[Mutants, str, str], Mutant | None]] = [
    *(
        reference,
        reference,
        number,
        number,
        bound,
        unknown_key,
        unknown_key,
        wrong_type,
        wrong_type,
        wrong_type,
        missing,
        missing,
    ),
    *(twice, registry_name, encoding, hostile, damage, damage, expression, expression, chain),
]


def verdict(mutant: Mutant, outcome: str, message: str) -> str:
    """Return what is wrong with the outcome of a mutant; an empty text where nothing is."""
    if outcome in ("traceback", "hangs"):
        return f"{outcome} {message}"
    if outcome == "accepted":
        return "accepted" if mutant.refused else ""
    if "\n" in message or len(message) > 2000:
        return f"no line: {message[:300]}"
    if mutant.file not in message and mutant.refused:
        return f"names another file: {message[:300]}"
    if mutant.hint and "did you mean" not in message and "known:" not in message and "Input should be" not in message:
        return f"offers no name: {message[:300]}"
    return ""
