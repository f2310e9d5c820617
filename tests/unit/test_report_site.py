"""The site shows the ledger's numbers with their evidence, links that lead somewhere, and nothing that configuration says as markup."""

from __future__ import annotations

import csv
import json
import re
import shutil
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from replica.claims.cells import cells, row_name
from replica.claims.compare import report
from replica.claims.ledger import merge
from replica.claims.numbers import text
from replica.claims.run_files import pack
from replica.errors import ConfigError, ResultError
from replica.files import read_json, sha256_file, write_text
from replica.plan import build_plan
from replica.report import site
from replica.report.marks import MARKS
from replica.report.site import comparisons, stored_runs
from replica.seals import code_facts, write_sealed
from tests.unit.synthetic_checkout import CLAIMS, fill, make, store, store_metrics
from tests.unit.test_report import build

MARKUP = "<img src=x onerror=alert(1)>&\"'"


class Page(HTMLParser):
    """Collects table rows as texts, cells that stand for a claim, ids, links, what is loaded, and every tag."""

    def __init__(self, path: Path):
        super().__init__()
        self.path = path
        self.rows: list[list[str]] = []
        self.claims: dict[str, list[tuple[str, str]]] = {}
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.svg: set[str] = set()
        self._cell = False
        self._claim: str | None = None
        self._classes: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append(tag)
        assert not any(name.startswith("on") for name in values), values
        self.ids += [values["id"]] if "id" in values else []
        self.links += [values["href"]] if tag == "a" else []
        self.loads += [values[key] for key in ("src", "srcset", "data", "poster", "action") if values.get(key)]
        self.loads += [values["href"]] if tag in ("link", "base") else []
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
            self._cell = True
            self._claim = values.get("data-claim")
            if self._claim:
                self.claims[self._claim] = []
        elif self._claim and "aria-label" in values:
            self.claims[self._claim].append(("label", values["aria-label"]))
        if tag not in ("img", "br", "link", "meta", "input"):
            self._classes.append(values.get("class") or "")

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self._cell, self._claim = False, None
        if self._classes:
            self._classes.pop()

    def handle_data(self, data):
        if self._cell:
            self.rows[-1][-1] += data
        if self._claim:
            inside = next((name for name in reversed(self._classes) if name), "")
            self.claims[self._claim].append((inside, data))


def pages(built: dict) -> Iterator[Page]:
    """Every page of the site."""
    folder = built["results"] / "report"
    yield Page(folder / "index.html")
    for path in sorted((folder / "site").rglob("*.html")):
        yield Page(path)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return build(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def paper(built):
    return Page(built["results"] / "report" / "site" / "papers" / "toy.html")


def test_every_row_of_the_ledger_stands_on_its_papers_page(built, paper):
    by_claim = {row[0].split()[0]: row for row in paper.rows if len(row) == 6 and row[0]}
    for row in built["rows"]:
        found = by_claim[row["claim"]]
        assert found[1] == row["evidence"]
        assert found[2] == text(row["paper_value"]) + ("†" if row["confidence"] == "low" else "")
        assert found[3].startswith(text(row["our_value"]))
        if row["low"] is not None:
            assert f"[{text(row['low'])}, {text(row['high'])}]" in found[3]
        assert row["verdict"] in found[4]
        assert row["reason"] in found[5]


def test_every_cell_of_every_table_equals_the_ledger_and_names_its_evidence(built, paper):
    by_claim = {row["claim"]: row for row in built["rows"]}
    shown = {claim.id for table in built["paper"].tables for claim in built["paper"].claims if claim.id in table.claims}
    expected = {row_name(claim, cell) for claim in built["paper"].claims if claim.id in shown for cell in cells(claim)}
    assert set(paper.claims) == expected
    for name, parts in paper.claims.items():
        row = by_claim[name]
        said = {key: "".join(data for inside, data in parts if inside == key) for key in ("theirs", "run", "ours", "e")}
        labels = [data for inside, data in parts if inside == "label"]
        ours = said["ours"].strip() or said["run"]
        unsure = row["confidence"] == "low" and row["paper_value"] is not None
        assert said["theirs"] == text(row["paper_value"]) + ("†" if unsure else ""), name
        assert ours == text(row["our_value"]), name
        assert labels == [row["verdict"], row["evidence"]]
        assert MARKS[row["verdict"]][0] in [data for _, data in parts]


def test_every_link_leads_somewhere_and_nothing_is_loaded_from_another_host(built):
    found = {page.path.resolve(): page for page in pages(built)}
    assert len(found) > 30
    for path, page in found.items():
        assert len(page.ids) == len(set(page.ids)), path
        for link in [*page.links, *(load for load in page.loads if load != "data:,")]:
            target, _, fragment = link.partition("#")
            where = (path.parent / unquote(target)).resolve() if target else path
            assert where.is_file(), f"{path.name}: {link}"
            if fragment:
                assert unquote(fragment) in found[where].ids, f"{path.name}: {link}"
    for path in (built["results"] / "report").rglob("*"):
        if path.suffix in (".html", ".css", ".js"):
            content = path.read_text(encoding="utf-8")
            assert not re.search(
                r"@import|url\(|fetch\(|XMLHttp|WebSocket|sendBeacon|(?:src|href)=\"(?:https?:)?//", content
            )


def test_a_cell_leads_to_its_run_and_the_run_back(built, paper):
    run = next(row["runs"].split()[0] for row in built["rows"] if row["claim"] == "toy-trend:trend")
    assert f"../runs/{run}.html" in paper.links
    page = Page(built["results"] / "report" / "site" / "runs" / f"{run}.html")
    assert "../papers/toy.html#c-toy-trend~3atrend" in page.links
    assert "c-toy-trend~3atrend" in paper.ids
    content = page.path.read_text(encoding="utf-8")
    assert "torch 2.13.0" in content and "toy chip" in content and "seed0/metrics.json --config scale=laptop" in content
    history = list(csv.DictReader((page.path.with_suffix(".csv")).open(encoding="utf-8")))
    assert [line["loss"] for line in history][:2] == ["1.0", "0.5"] and history[0]["seed"] == "0"
    assert "polyline" in page.tags


def test_the_map_holds_what_it_is_filtered_by(built):
    content = (built["results"] / "report" / "index.html").read_text(encoding="utf-8")
    assert 'data-tasks="toy-task"' in content and 'data-backbones="toy"' in content
    assert re.search(r'data-cells="[^"]*structural:match[^"]*trend:inconclusive', content)
    row = next(
        row for row in Page(built["results"] / "report" / "index.html").rows if row and row[0].startswith("toyT")
    )
    # structural: total, share, order and three sizes match; two sizes worse; one erratum; one blocked
    assert row[1].split() == ["6", "match", "2", "worse", "1", "paper-inconsistent", "1", "blocked"]


def test_every_method_has_a_page_with_its_settings_and_formulas(built):
    from replica.methods.registry import entries

    folder = built["results"] / "report" / "site" / "methods"
    assert {path.stem for path in folder.glob("*.html")} == {*entries(), "index"}
    content = (folder / "galore.html").read_text(encoding="utf-8")
    assert "dimension of the subspace" in content and "Algorithm 2" in content
    assert "alpha * task loss" in (folder / "logit-distillation.html").read_text(encoding="utf-8")


def test_markup_in_configuration_and_data_is_shown_as_text(tmp_path, built):
    root = tmp_path / "checkout"
    shutil.copytree(built["root"], root)
    claims = [{**claim, "statement": MARKUP, "where": MARKUP, "source": MARKUP} for claim in CLAIMS]
    project = make(root, claims, title=MARKUP, authors=MARKUP, summary=MARKUP, errata=[MARKUP], families=[MARKUP])
    project.datasets["toy-data"] = project.datasets["toy-data"].model_copy(update={"title": MARKUP})
    rows = [dict(row, reason=MARKUP, unit=MARKUP, metric=MARKUP) for row in built["rows"]]
    run = next(row["runs"].split()[0] for row in rows if row["runs"])
    folder = root / "results" / "laptop" / "runs" / run / "seed0"
    (folder / "history.jsonl").write_text(
        "".join(json.dumps({"step": step, "loss": step, MARKUP: step}) + "\n" for step in range(3)), encoding="utf-8"
    )
    store(folder / "manifest.json", {"versions": {MARKUP: MARKUP}, "files": {MARKUP: {"sha256": MARKUP, "bytes": 1}}})
    site.write(project, rows, "laptop", root / "results", root / "report" / "index.html")
    made = [Page(path) for path in (root / "report").rglob("*.html")]
    assert sum("<img src=x" in page.path.read_text(encoding="utf-8") for page in made) == 0
    assert "&lt;img src=x onerror" in (root / "report" / "index.html").read_text(encoding="utf-8")
    assert "&lt;img src=x onerror" in (root / "report" / "site" / "runs" / f"{run}.html").read_text(encoding="utf-8")


def test_a_deleted_measurement_turns_its_cell_to_not_run_on_every_page(tmp_path, built):
    root = tmp_path / "checkout"
    shutil.copytree(built["root"], root)
    project = make(root)
    results, ids = root / "results", build_plan(project, "laptop").named["toy"]
    number = "0.823579"
    plain = ids["laptop"]["plain"]
    for seed in range(3):
        store_metrics(results, "laptop", plain, seed, accuracy=float(number) + seed / 50, f1=0.5)

    def written() -> str:
        claims = report(project, "toy", "laptop", results, {"laptop": ids["laptop"], "paper": {}})
        store(results / "laptop" / "papers" / "toy" / "claims.json", claims)
        site.write(project, merge([claims]), "laptop", results, root / "report" / "index.html")
        return "".join(path.read_text(encoding="utf-8") for path in sorted((root / "report").rglob("*.html")))

    assert number in written()
    write_text(results / "pinned" / "laptop" / "runs" / f"{plain}.json", pack(results / "laptop" / "runs" / plain))
    (results / "laptop" / "runs" / plain / "seed0" / "metrics.json").unlink()
    content = written()
    assert number not in content, "neither the old number nor its pinned copy"
    assert re.search(r'id="c-toy-trend~3atrend">.*?<span class="v not-run">', content, re.S)


def test_a_run_that_is_only_pinned_has_a_page_that_says_so(tmp_path, built):
    root = tmp_path / "checkout"
    shutil.copytree(built["root"], root)
    results = root / "results"
    for path in (results / "laptop" / "runs").iterdir():
        write_text(results / "pinned" / "laptop" / "runs" / f"{path.name}.json", pack(path))
    shutil.rmtree(results / "laptop" / "runs")
    run = next(path.stem for path in (results / "pinned" / "laptop" / "runs").iterdir())
    site.write(make(root), built["rows"], "laptop", results, root / "report" / "index.html")
    assert "Pinned:" in (root / "report" / "site" / "runs" / f"{run}.html").read_text(encoding="utf-8")
    assert stored_runs.stored_runs(results, "laptop")[run].pinned
    assert 'data-evidence="trend"' not in (root / "report" / "site" / "budget.html").read_text(encoding="utf-8")


def _point(label: str, trained: float, score: float, direction: str = "higher") -> comparisons.Point:
    return comparisons.Point(
        "trend", label, "toy", "", "b", "t", (), "b on t", {"trained": trained}, {}, score, direction=direction
    )


def test_the_pareto_front_holds_what_nothing_else_beats():
    found = [_point("a", 10, 70), _point("b", 20, 80), _point("c", 20, 75), _point("d", 30, 80), _point("e", 40, 90)]
    assert [point.label for point in comparisons.front(found, "trained", "score")] == ["a", "b", "e"]
    errors = [_point("a", 10, 0.3, "lower"), _point("b", 20, 0.2, "lower"), _point("c", 30, 0.25, "lower")]
    assert [point.label for point in comparisons.front(errors, "trained", "score")] == ["a", "b"]


def test_points_measured_under_other_options_share_no_drawing():
    def memory(label, batch, trained):
        costs, settings = {"trained": trained, "memory": trained * batch}, {"memory": f"batch {batch}"}
        return comparisons.Point("structural", label, "toy", "", "b", "", (), "b", costs, settings)

    found = [memory(f"{batch}-{size}", batch, size) for batch in (1, 8) for size in (1, 2, 3)]
    assert [plane.settings for plane in comparisons.planes(found)] == ["batch 1", "batch 8"]


def test_memory_and_flops_of_runs_are_compared_under_equal_options(tmp_path, built):
    root = tmp_path / "checkout"
    shutil.copytree(built["root"], root)
    runs = sorted(path.parents[1] for path in (root / "results" / "laptop" / "runs").glob("*/seed0/metrics.json"))
    assert len(runs) == 2
    for folder, peak, batch in zip(runs, (2_000_000, 3_000_000), (16, 32), strict=True):
        for path in folder.glob("seed*"):
            memory, flops = {"peak_bytes": peak, "steps": 8}, {"forward": 5e9, "length": 64}
            store(path / "manifest.json", {"train": {"batch_size": batch}, "memory": memory, "flops": flops})
    site.write(make(root), built["rows"], "laptop", root / "results", root / "report" / "index.html")
    page = (root / "report" / "site" / "compare.html").read_text(encoding="utf-8")
    assert "against FLOPs of a forward pass</strong> (length 64)" in page
    assert "against peak training memory" not in page, "of two batch sizes there is one setting each"
    budget = (root / "report" / "site" / "budget.html").read_text(encoding="utf-8")
    assert "1.91 MiB <small>batch 16, processor</small>" in budget and "2.86 MiB <small>batch 32" in budget


def test_score_is_drawn_against_cost_with_the_data_beside_it(tmp_path, built):
    root = tmp_path / "checkout"
    shutil.copytree(built["root"], root)
    for number, path in enumerate(sorted((root / "results" / "laptop" / "runs").glob("*/seed0/metrics.json"))):
        store(path.with_name("manifest.json"), {"counts": {"trainable_parameters": 10 + number}, "files": {}})
    site.write(make(root), built["rows"], "laptop", root / "results", root / "report" / "index.html")
    folder = root / "report" / "site" / "figures" / "compare"
    names = {path.stem for path in folder.glob("*.svg")}
    assert all(names == {path.stem for path in folder.glob(f"*.{kind}")} for kind in ("csv", "png", "pdf"))
    [drawn] = [name for name in names if name == "toy-on-toy-task-trained-score"]
    listed = list(csv.DictReader((folder / f"{drawn}.csv").open(encoding="utf-8")))
    points = re.findall(
        r'<a xlink:href="([^"]+)" target="_top"><title>([^<]+)</title>',
        (folder / f"{drawn}.svg").read_text(encoding="utf-8"),
    )
    assert {title for _, title in points} == {
        "toy: plain (no method): 10, accuracy 0.84", "toy: small-a (no method): 11, accuracy 0.81",
    }  # fmt: skip
    assert all((folder / link).resolve().is_file() and "/runs/" in link for link, _ in points)
    # the mean over seeds of 0.82, 0.84, 0.86 and of 0.80, 0.81, 0.82, from the synthetic checkout
    assert {line["setting"]: line["accuracy"] for line in listed} == {"toy: plain": "0.84", "toy: small-a": "0.81"}
    assert all(line["evidence"] == "trend" for line in listed)


def test_a_figures_data_stand_beside_it(tmp_path, built):
    root = tmp_path / "checkout"
    shutil.copytree(built["root"], root)
    (root / "results" / "laptop" / "papers" / "toy" / "figures" / "curve.csv").write_text(
        "x,y\n1,2\n", encoding="utf-8"
    )
    site.write(make(root), built["rows"], "laptop", root / "results", root / "report" / "index.html")
    page = Page(root / "report" / "site" / "papers" / "toy.html")
    assert "../figures/toy/curve.csv" in page.links
    assert (root / "report" / "site" / "figures" / "toy" / "curve.csv").read_text(encoding="utf-8") == "x,y\n1,2\n"


def test_the_site_takes_no_file_through_a_link_and_no_table_that_its_paper_does_not_name(tmp_path, built):
    root = tmp_path / "checkout"
    shutil.copytree(built["root"], root)
    paper = root / "results" / "laptop" / "papers" / "toy"
    (paper / "tables" / "mine.csv").write_text("hush-hush", encoding="utf-8")
    site.write(make(root), built["rows"], "laptop", root / "results", root / "report" / "index.html")
    listed = json.loads((root / "report" / "site" / "files.json").read_text(encoding="utf-8"))
    there = {path.relative_to(root / "report" / "site").as_posix() for path in (root / "report" / "site").rglob("*.*")}
    assert set(listed) == there - {"files.json"} and "tables/toy/all-claims.csv" in listed
    assert not [name for name in listed if "mine" in name]
    for linked in (paper / "figures" / "verdicts.svg", paper / "tables" / "all-claims.csv"):
        linked.rename(root / "elsewhere")
        linked.symlink_to(root / "elsewhere")
        with pytest.raises(ResultError, match=rf"{linked.name}: leads out of .* or through a link"):
            site.write(make(root), built["rows"], "laptop", root / "results", root / "report" / "index.html")
        (root / "elsewhere").rename(linked)


def _contrast(one: str, other: str) -> float:
    """WCAG 2 contrast ratio of two colours."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_text_has_the_contrast_that_wcag_asks_for_in_both_modes(built):
    style = (built["results"] / "report" / "site" / "site.css").read_text(encoding="utf-8")
    blocks = re.findall(r":root \{(.*?)\}", style, re.S)
    assert len(blocks) == 2
    for block in blocks:
        colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", block))
        pairs = [
            ("text", "back"),
            ("text", "soft"),
            ("quiet", "back"),
            ("quiet", "soft"),
            ("link", "back"),
            ("link", "soft"),
        ]
        pairs += [(name, f"{name}back") for name in ("good", "bad", "mid", "odd")]
        for front, back in pairs:
            assert _contrast(colours[front], colours[back]) >= 4.5, (front, back)


def test_a_ledger_of_another_paper_is_an_error(tmp_path, built):
    row = {**built["rows"][0], "paper": "other"}
    with pytest.raises(ConfigError, match="rows of 'other', which is none of the papers to report"):
        site.write(make(tmp_path), [row], "laptop", tmp_path, tmp_path / "index.html")


def test_a_thousand_runs_are_built_in_time_and_the_front_page_stays_small(tmp_path, built):
    root = tmp_path / "checkout"
    shutil.copytree(built["root"], root)
    source = next(path.parent for path in (root / "results" / "laptop" / "runs").glob("*/seed0/manifest.json"))
    for number in range(1000):
        copy = root / "results" / "laptop" / "runs" / f"adapt-copy-{number:08x}" / "seed0"
        shutil.copytree(source, copy)
        store(copy / "manifest.json", read_json(copy / "manifest.json"))
    start = time.process_time()
    site.write(make(root), built["rows"], "laptop", root / "results", root / "report" / "index.html")
    assert time.process_time() - start < 60
    assert len(list((root / "report" / "site" / "runs").glob("adapt-copy-*.html"))) == 1000
    assert (root / "report" / "index.html").stat().st_size < 1_000_000


def test_a_table_of_laptop_runs_stands_on_the_papers_page_with_its_kind_of_evidence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells = {"plain": {"score": "100 * runs.plain.toy-task.accuracy"}, "slow": {"score": "runs.slow.toy-task.accuracy"}}
    project = make(Path(), tables=[{"id": "arms", "title": "Arms", "arms": cells}])
    ids = {name: build_plan(project, name).named["toy"][name] for name in ("laptop", "paper")}
    results = Path("results")
    fill(results, ids)
    made = report(project, "toy", "laptop", results, ids)
    store(results / "laptop" / "papers" / "toy" / "claims.json", made)
    site.write(project, merge([made]), "laptop", results, results / "report" / "index.html")
    page = results / "report" / "site" / "papers" / "toy.html"
    assert [row for row in Page(page).rows if row[0] in ("plain", "slow")][-2:] == [
        ["plain", "84 (82 to 86)"],
        ["slow", "–"],
    ]
    caption = page.read_text(encoding="utf-8").partition('<figure id="table-arms">')[2].partition("</figcaption>")[0]
    assert "trend" in caption


def test_a_run_by_other_code_is_marked(tmp_path, built):
    root = tmp_path / "checkout"
    shutil.copytree(built["root"], root)
    run = next(path.parents[1].name for path in (root / "results" / "laptop" / "runs").glob("*/seed1/manifest.json"))
    folder = root / "results" / "laptop" / "runs" / run
    commits = {0: code_facts(), 1: {"commit": "0123456789abcdef", "sha256": "other"}}
    for seed, code in commits.items():
        path = folder / f"seed{seed}" / "manifest.json"
        write_sealed(path, read_json(path), code=code)
        scores = path.with_name("metrics.json")
        write_sealed(scores, read_json(scores), inputs={"manifest.json": sha256_file(path)})
    site.write(make(root), built["rows"], "laptop", root / "results", root / "report" / "index.html")
    page = (root / "report" / "site" / "runs" / f"{run}.html").read_text(encoding="utf-8")
    assert "code as in this checkout (1 of 3 seeds)" in page
    assert "other code than this checkout&#39;s of commit 0123456789ab (1 of 3 seeds)" in page
    assert "code not recorded (1 of 3 seeds)" in page
