"""A page per registered method: description, formulas from the code, settings, uses and costs."""

from __future__ import annotations

import ast
import inspect
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from replica.methods import registry
from replica.report.site.comparisons import AXES, Point
from replica.report.site.front import method_names
from replica.report.site.pages import Pages, Source


def write(pages: Pages, source: Source, points: list[Point]) -> None:
    """Write every method's page and the list of them."""
    listed = []
    for name, entry in registry.entries().items():
        text = inspect.cleandoc(entry.config.__doc__ or "")
        first, _, rest = text.partition("\n")
        measurements = [
            (paper.id, measurement)
            for paper in source.papers
            for measurement, item in paper.measurements.items()
            if name in method_names(item.methods)
        ]
        runs = [run for run in source.runs if name in [item["name"] for item in source.spec(run).get("methods", [])]]
        papers = sorted(
            {paper for paper, _ in measurements} | {paper for run in runs for paper, _ in source.names.get(run, [])}
        )
        pages.write(
            f"methods/{name}.html",
            "method.html.j2",
            name=name,
            entry=entry,
            family=entry.family,
            first=first,
            rest=rest.strip(),
            formulas=formulas(entry.module),
            settings=_settings(entry.config),
            measurements=measurements,
            runs=[{"run": run, "called": source.called(run), "seeds": len(source.runs[run].seeds)} for run in runs],
            papers=papers,
            points=[point for point in points if name in point.methods],
            axes=AXES,
        )
        listed.append({"name": name, "family": entry.family, "first": first, "papers": papers, "runs": len(runs)})
    pages.write(
        "methods/index.html", "methods.html.j2", methods=sorted(listed, key=lambda one: (one["family"], one["name"]))
    )


def formulas(module: str) -> list[tuple[str, str]]:
    """Return (name, docstring) of the module that implements a method and of its members, read without importing it.

    The module and the method's class come first, then the other public classes and functions whose docstring has a formula (an
    equals sign) or names an equation.
    """
    spec = find_spec(module)
    assert spec is not None and spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    own = [node.name for node in classes if "Method" in [getattr(base, "id", "") for base in node.bases]]
    method = own[0] if own else classes[-1].name
    documents = [("", ast.get_docstring(tree) or "")]
    rest = []
    for node in tree.body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef) or node.name.startswith("_"):
            continue
        documented = [(node.name, ast.get_docstring(node) or "")]
        if isinstance(node, ast.ClassDef):
            documented += [
                (f"{node.name}.{inner.name}", ast.get_docstring(inner) or "")
                for inner in node.body
                if isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_")
            ]
        for name, text in documented:
            if name == method and text:
                documents.append((name, text))
            elif "=" in text or "equation" in text.lower():
                rest.append((name, text))
    return [(name, text) for name, text in [*documents, *rest] if text]


def _settings(config: type[registry.MethodConfig]) -> list[dict[str, Any]]:
    """Return name, type, default and meaning of every setting of a method."""
    properties = config.model_json_schema().get("properties", {})
    return [
        {
            "name": name,
            "type": _type(properties.get(name, {})),
            "default": "" if field.is_required() else _default(field.get_default(call_default_factory=True)),
            "required": field.is_required(),
            "meaning": field.description or "",
        }
        for name, field in config.model_fields.items()
    ]


def _type(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if "anyOf" in schema:
        return " | ".join(_type(inner) for inner in schema["anyOf"])
    return str(schema.get("const", schema.get("type", schema.get("$ref", "").rsplit("/", 1)[-1])))


def _default(value: Any) -> str:
    return "none" if value is None else str(value)
