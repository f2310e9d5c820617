"""All methods on the same backbone and task: score against cost, with the Pareto front; and costs at full size."""

from __future__ import annotations

import io
import json
import re
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from replica.claims.numbers import significant, text
from replica.claims.run_files import AGAIN
from replica.claims.statistics import aggregate
from replica.report.sheets import Sheet
from replica.report.site.front import method_names
from replica.report.site.pages import OF_SCALE, Pages, Source, anchor, quantity, short
from replica.seals import read_sealed


@dataclass(frozen=True)
class Axis:
    """A cost: its key in a point, its title, and its unit for `quantity`."""

    key: str
    title: str
    unit: str


AXES = (
    Axis("trained", "trained parameters", "parameters"),
    Axis("memory", "peak training memory", "bytes"),
    Axis("flops", "FLOPs of a forward pass", "flops"),
    Axis("bytes", "bytes of the stored model", "bytes"),
    Axis("latency", "latency of a batch", "milliseconds"),
    Axis("seconds", "training time", "seconds"),
)


@dataclass(frozen=True)
class Point:
    """A measured setting: a run (score over seeds and its costs) or a measurement at full size (costs alone).

    `costs` holds one number per axis that was measured; `settings` holds the options (batch, length) of each. Points of one
    `group` can be compared: backbone and task, or backbone and its configuration.
    """

    evidence: str
    label: str
    paper: str
    link: str
    backbone: str
    task: str
    methods: tuple[str, ...]
    group: str
    costs: dict[str, float]
    settings: dict[str, str] = field(default_factory=dict)
    score: float | None = None
    low: float | None = None
    high: float | None = None
    metric: str = ""
    direction: str = "higher"
    seeds: int = 0

    @property
    def method(self) -> str:
        """The methods as one label."""
        return " + ".join(self.methods) or "no method"


def points(source: Source) -> list[Point]:
    """Return every measured setting: of the runs stored in this checkout, and of the structural measurements."""
    return [*_run_points(source), *_structural_points(source)]


def _run_points(source: Source) -> Iterable[Point]:
    for name, run in source.runs.items():
        seeds = [seed for seed in run.seeds if not seed.pinned and seed.metrics]
        spec = source.spec(name)
        if not seeds:
            continue
        costs = _run_costs(seeds)
        for task in seeds[0].metrics:
            known = source.project.tasks.get(task)
            metric = known.primary.name if known else next(iter(seeds[0].metrics[task]))
            values = [seed.metrics.get(task, {}).get(metric, {}).get("value") for seed in seeds]
            values = [value for value in values if value is not None]
            if not values:
                continue
            backbone = spec.get("root") or (spec.get("model") or {}).get("name") or "unknown"
            yield Point(
                evidence=OF_SCALE[source.scale],
                label=source.called(name),
                paper=(source.names.get(name) or [("", "")])[0][0],
                link=f"runs/{name}.html",
                backbone=backbone,
                task=task,
                methods=tuple(item["name"] for item in spec.get("methods", [])),
                group=f"{backbone} on {task}",
                costs=costs,
                settings=_measured_with(seeds),
                score=aggregate(values),
                low=min(values),
                high=max(values),
                metric=metric,
                direction=known.primary.direction if known else "higher",
                seeds=len(values),
            )


def _run_costs(seeds: list[Any]) -> dict[str, float]:
    """Return a run's costs: parameters and FLOPs of the first seed, mean peak memory and seconds, bytes and latency as measured."""
    costs: dict[str, float] = {}
    counts = next((seed.manifest["counts"] for seed in seeds if seed.manifest.get("counts")), {})
    measures = next((seed.measures for seed in seeds if seed.measures), {})
    files = next((seed.manifest["files"] for seed in seeds if seed.manifest.get("files")), {})
    flops = next((seed.manifest["flops"] for seed in seeds if seed.manifest.get("flops")), {})
    seconds = [seed.manifest["seconds"] for seed in seeds if seed.manifest.get("seconds") is not None]
    peaks = [seed.manifest["memory"]["peak_bytes"] for seed in seeds if seed.manifest.get("memory")]
    measured = {
        "trained": counts.get("trainable_parameters"),
        "memory": aggregate(peaks) if peaks else None,
        "flops": flops.get("forward"),
        "seconds": aggregate(seconds) if seconds else None,
        "bytes": measures.get("stored_bytes") or files.get("model.safetensors", {}).get("bytes"),
        "latency": measures.get("latency_median_ms"),
    }
    costs.update({key: value for key, value in measured.items() if value is not None})
    return costs


def _measured_with(seeds: list[Any]) -> dict[str, str]:
    """Return the options of measured costs: batch, length and threads of a latency, batch and device of memory, length of FLOPs."""
    measures = next((seed.measures for seed in seeds if seed.measures), {})
    manifest = next((seed.manifest for seed in seeds if seed.manifest), {})
    options = {}
    keys = {"batch": "latency_batch", "length": "latency_length", "threads": "latency_threads"}
    shown = ", ".join(f"{name} {measures[key]}" for name, key in keys.items() if key in measures)
    if "latency_median_ms" in measures and shown:
        options["latency"] = shown
    train, device = manifest.get("train", {}), (manifest.get("hardware") or {}).get("gpu", "processor")
    if manifest.get("memory"):
        options["memory"] = ", ".join(f"{name} {train[key]}" for name, key in _MEMORY if key in train) + f", {device}"
    if manifest.get("flops"):
        options["flops"] = f"length {manifest['flops']['length']}"
    return options


#: Training options that the memory of a step depends on.
_MEMORY = (("batch", "batch_size"), ("accumulate", "accumulate"), ("length", "max_length"), ("precision", "precision"))


#: axis → meter and key of its number in a structural measurement.
_METERS = {
    "trained": ("parameters", "trainable"),
    "memory": ("memory", "peak"),
    "flops": ("flops", "forward"),
    "bytes": ("storage", "bytes"),
}


def _structural_points(source: Source) -> Iterable[Point]:
    for paper in source.papers:
        path = source.results / "structural" / f"{paper.id}.json"
        if not path.is_file():
            continue
        stored = read_sealed(path, {"measurements": dict}, AGAIN)["measurements"]
        for name, item in paper.measurements.items():
            meters = stored.get(name, {})
            costs = {
                axis: meters[meter][key]
                for axis, (meter, key) in _METERS.items()
                if isinstance(meters.get(meter), dict) and meters[meter].get(key) is not None
            }
            if item.model is None or not costs:
                continue
            changes = ", ".join(f"{key} {value}" for key, value in sorted(item.config.items()))
            yield Point(
                evidence="structural",
                label=f"{paper.id}: {name}",
                paper=paper.id,
                link=f"papers/{paper.id}.html",
                backbone=item.model,
                task="",
                methods=tuple(method_names(item.methods)),
                group=item.model + (f" ({changes})" if changes else ""),
                costs=costs,
                settings={axis: _options(item.meters.get(meter) or {}) for axis, (meter, _) in _METERS.items() if axis in costs},
            )  # fmt: skip


def _options(options: dict[str, Any]) -> str:
    return ", ".join(f"{key} {json.dumps(value)}".replace('"', "") for key, value in sorted(options.items()))


def front(entries: list[Point], x: str, y: str) -> list[Point]:
    """Return the Pareto front of points by two costs (less is better), or by a cost and the `score`, in order of x.

    On it are the points of which no other is as good in both and better in one; of equal points the first by label.
    """

    def place(point: Point) -> tuple[float, float]:
        if y == "score":
            assert point.score is not None
            return point.costs[x], -point.score if point.direction == "higher" else point.score
        return point.costs[x], point.costs[y]

    best: list[Point] = []
    for point in sorted(entries, key=lambda one: (*place(one), one.label)):
        if not best or place(point)[1] < place(best[-1])[1]:
            best.append(point)
    return best


@dataclass(frozen=True)
class Plane:
    """A drawing of one group: points with both coordinates under the same options, and the front among them."""

    id: str
    title: str
    evidence: str
    x: Axis
    y: str
    y_unit: str
    settings: str
    points: list[Point]
    front: list[Point]


def planes(entries: list[Point]) -> list[Plane]:
    """Return the drawings: score against each cost per backbone and task; memory and FLOPs against trained parameters at full size."""
    drawings = []
    for group in dict.fromkeys(point.group for point in entries if point.score is not None):
        members = [point for point in entries if point.group == group and point.score is not None]
        for axis in AXES:
            placed = [point for point in members if axis.key in point.costs]
            for settings in dict.fromkeys(point.settings.get(axis.key, "") for point in placed):
                alike = [point for point in placed if point.settings.get(axis.key, "") == settings]
                if len(alike) > 1:
                    title = f"{group}: {members[0].metric} against {axis.title}"
                    drawings.append(_plane(group, title, axis, "score", members[0].metric, settings, alike))
    for group in dict.fromkeys(point.group for point in entries if point.evidence == "structural"):
        for axis in AXES[1:3]:
            members = [
                p for p in entries if p.group == group and p.evidence == "structural" and {"trained", axis.key} <= set(p.costs)
            ]  # fmt: skip
            for settings in dict.fromkeys(point.settings[axis.key] for point in members):
                placed = [point for point in members if point.settings[axis.key] == settings]
                if len({(p.costs["trained"], p.costs[axis.key]) for p in placed}) > 2:
                    title = f"{group}: {axis.title} against trained parameters"
                    drawings.append(
                        _plane(group, title, AXES[0], axis.key, f"{axis.title} ({axis.unit})", settings, placed)
                    )
    return drawings


def _plane(group: str, title: str, x: Axis, y: str, label: str, settings: str, placed: list[Point]) -> Plane:
    name = anchor(f"{group} {x.key} {y} {settings}".replace(" ", "-")).removeprefix("c-").replace("~", "_")
    return Plane(
        name.strip("-")[:120], title, placed[0].evidence, x, y, label, settings, placed, front(placed, x.key, y)
    )


def write(pages: Pages, source: Source, entries: list[Point]) -> None:
    """Write the page of comparisons with its drawings (SVG, PNG, PDF) and their data (CSV)."""
    drawn = planes(entries)
    if drawn:
        folder = pages.folder / "figures" / "compare"
        folder.mkdir(parents=True)
        _draw(drawn, folder)
    groups: dict[tuple[str, str], list[Plane]] = {}
    for plane in drawn:
        groups.setdefault((plane.evidence, plane.points[0].group), []).append(plane)
    pages.write(
        "compare.html",
        "compare.html.j2",
        groups=groups,
        axes=AXES,
        missing={axis.title: sum(axis.key not in p.costs for p in entries if p.score is not None) for axis in AXES},
        scored=sum(point.score is not None for point in entries),
    )


def data(plane: Plane) -> Sheet:
    """Return a drawing's points as a table, the front marked."""
    header = [
        "setting",
        "methods",
        "evidence",
        plane.x.title,
        plane.y_unit,
        "lowest seed",
        "highest seed",
        "on the front",
    ]
    rows = []
    for point in plane.points:
        y = significant(point.score if plane.y == "score" else point.costs[plane.y])
        bounds = [text(significant(point.low)), text(significant(point.high))] if plane.y == "score" else ["", ""]
        mark = "yes" if point in plane.front else "no"
        x = text(significant(point.costs[plane.x.key]))
        rows.append([point.label, point.method, point.evidence, x, text(y), *bounds, mark])
    return Sheet(plane.title, header, rows)


def _draw(drawn: list[Plane], folder: Path) -> None:
    from replica.report.drawings import named, plain_powers
    from replica.report.figures import METADATA, STYLE, plt

    for plane in drawn:
        (folder / f"{plane.id}.csv").write_text(data(plane).to_csv(), encoding="utf-8")
        with plt.style.context([str(STYLE), _MANY]):
            drawing, axes = plt.subplots(figsize=(6.4, 4.0))
            labels = list(dict.fromkeys(point.method for point in plane.points))
            targets: list[Point] = []
            for index, label in enumerate(labels):
                members = [point for point in plane.points if point.method == label]
                marker = "os^Dv<>Ph*X"[index % 11]
                for number, point in enumerate(members):
                    [mark] = axes.plot(
                        point.costs[plane.x.key], _y(point, plane), marker, color=f"C{index % 8}",
                        label=named(label) if number == 0 else None, markeredgecolor="black", markeredgewidth=0.5,
                    )  # fmt: skip
                    mark.set_url(f"{_UP}{point.link}#{len(targets) + number}")
                targets += members
                if plane.y == "score":
                    axes.vlines(
                        [p.costs[plane.x.key] for p in members], [p.low for p in members], [p.high for p in members],
                        color=f"C{index % 8}", linewidth=1, zorder=1,
                    )  # fmt: skip
            axes.step(
                [p.costs[plane.x.key] for p in plane.front], [_y(p, plane) for p in plane.front],
                where="post", color="black", linestyle="--", linewidth=1, label="Pareto front", zorder=1,
            )  # fmt: skip
            numbers = [point.costs[plane.x.key] for point in plane.points]
            if min(numbers) > 0 and max(numbers) > 20 * min(numbers):
                axes.set_xscale("log")
                plain_powers(axes.xaxis)
            axes.set_xlabel(f"{plane.x.title} ({plane.x.unit})" if plane.x.key != "trained" else plane.x.title)
            axes.set_ylabel(plane.y_unit + (" (line: lowest to highest seed)" if plane.y == "score" else ""))
            axes.set_title("\n".join(_wrapped(plane.title)))
            axes.legend(loc="upper left", bbox_to_anchor=(0.0, -0.14), fontsize=7, ncols=2)
            drawing.canvas.draw()
            whole = drawing.get_tightbbox().padded(
                plt.rcParams["savefig.pad_inches"]
            )  # found once, not for each kind of file
            for suffix, metadata in METADATA.items():
                out = io.BytesIO()
                drawing.savefig(out, format=suffix, metadata=metadata, bbox_inches=whole)
                content = out.getvalue()
                if suffix == "svg":
                    content = _titled(content.decode(), plane, targets).encode()
                (folder / f"{plane.id}.{suffix}").write_bytes(content)
            plt.close(drawing)


#: Of many PDF files each takes the outlines of the signs it uses: cutting a font to them takes a third of all the time.
_MANY = {"pdf.fonttype": 3}
#: From the folder of the drawings to that of the pages.
_UP = "../../"


def _titled(svg: str, plane: Plane, targets: list[Point]) -> str:
    """Give each point's link a title, which browsers show under the pointer, and let it open in the page's own window."""

    def link(match: re.Match[str]) -> str:
        point = targets[int(match[2])]
        y = (
            f"{point.metric} {short(point.score)}"
            if plane.y == "score"
            else quantity(point.costs[plane.y], _unit(plane.y))
        )
        title = f"{point.label} ({point.method}): {quantity(point.costs[plane.x.key], plane.x.unit)}, {y}"
        return f'<a xlink:href="{match[1]}" target="_top"><title>{escape(title)}</title>'

    return re.sub(r'<a xlink:href="([^"#]+)#(\d+)"[^>]*>', link, svg)


def _unit(key: str) -> str:
    return next(axis.unit for axis in AXES if axis.key == key)


def _y(point: Point, plane: Plane) -> float:
    value = point.score if plane.y == "score" else point.costs[plane.y]
    assert value is not None
    return value


def _wrapped(title: str, width: int = 70) -> list[str]:
    return textwrap.wrap(title, width)
