"""Tables, figures and scorecard show the ledger's numbers, safely and the same every time; the site is in test_report_site.py."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from replica.claims.compare import report
from replica.claims.evidence import Evidence
from replica.claims.ledger import merge, read_claims, to_csv, to_json
from replica.claims.numbers import text
from replica.errors import ConfigError
from replica.files import write_text
from replica.plan import build_plan
from replica.report import figures, site, tables
from replica.report.scorecard import scorecard
from replica.report.sheets import Sheet, latex
from replica.seals import write_sealed
from tests.unit.synthetic_checkout import claim, fill, make


def build(root: Path) -> dict:
    """Make claims, ledger, tables, figures and site of the synthetic checkout."""
    with contextlib.chdir(root):
        made = _build(Path())
    return {**made, "root": root, "results": root / "results", "folder": root / made["folder"]}


def _build(root: Path) -> dict:
    project = make(root)
    ids = {name: build_plan(project, name).named["toy"][name] for name in ("laptop", "paper")}
    results = root / "results"
    fill(results, ids)
    paper, folder = project.paper("toy"), results / "laptop" / "papers" / "toy"
    write_sealed(folder / "claims.json", report(project, "toy", "laptop", results, ids))
    claims = read_claims(folder / "claims.json")
    rows = merge([claims])
    write_text(results / "claims.csv", to_csv(rows))
    write_text(results / "claims.json", to_json(rows))
    tables.write(paper, claims, folder / "tables")
    drawn = figures.write(paper, claims, Evidence(project, paper, "laptop", results, ids), folder / "figures")
    site.write(project, rows, "laptop", results, results / "report" / "index.html")
    return {
        "root": root,
        "results": results,
        "folder": folder,
        "rows": rows,
        "claims": claims,
        "drawn": drawn,
        "paper": paper,
    }


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return build(tmp_path_factory.mktemp("toy"))


def test_numbers_of_csv_and_markdown_are_the_ledgers(built):
    by_claim = {row["claim"]: row for row in built["rows"]}
    listed = list(
        csv.DictReader(io.StringIO((built["folder"] / "tables" / "all-claims.csv").read_text(encoding="utf-8")))
    )
    assert {line["claim"] for line in listed} == set(by_claim)
    markdown = (built["folder"] / "tables" / "all-claims.md").read_text(encoding="utf-8")
    for line in listed:
        row = by_claim[line["claim"]]
        assert line["ours"] == text(row["our_value"]) and line["paper"].rstrip("†") == text(row["paper_value"])
        assert f"| {line['claim']} |" in markdown and line["ours"] in markdown


def test_a_declared_table_has_the_papers_shape(built):
    lines = list(csv.reader(io.StringIO((built["folder"] / "tables" / "sizes.csv").read_text(encoding="utf-8"))))
    # two-level keys are rows by columns; a list's columns are named by the metric "size / cost"
    assert lines[0][::3] == [
        "",
        "total: verdict",
        "trainable size: verdict",
        "trainable cost: verdict",
        "parameters: verdict",
    ]
    assert lines[1] == ["toy-base", "1004", "1000", "match", "10", "15", "match", "20", "15", "match", "", "", ""]
    assert lines[2] == ["6x768", "300", "400", "worse", "5", "47", "worse", "", "", "", "", "", ""]
    assert lines[3][0] == "Toy-base" and lines[3][-3:] == ["1000", "1000", "match"]


def test_a_transposed_table_turns_rows_and_columns(built):
    lines = list(csv.reader(io.StringIO((built["folder"] / "tables" / "scores.csv").read_text(encoding="utf-8"))))
    assert [line[0] for line in lines[1:]] == ["accuracy", "F1", "accuracy / F1"]
    assert lines[0][1] == "A: paper"


def test_claims_that_share_lines_and_metric_get_columns_by_model(tmp_path):
    entries = [claim("one", value={"a": 1, "b": 2}, model="M1"), claim("two", value={"a": 3}, model="M2")]
    apart = [claim("three", value={"c": 4}, metric="other"), claim("four", value={"d": 5}, metric="other")]
    names = [entry["id"] for entry in entries + apart]
    table = {"id": "t", "title": "T", "claims": names}
    paper = make(tmp_path, entries + apart, tables=[table], figures=[]).paper("toy")
    rows = report(make(tmp_path, entries + apart, tables=[table], figures=[]), "toy", "laptop", tmp_path, {})["rows"]
    made = tables.grids(paper, rows)[0]
    assert made.columns == ["M1", "M2", "other"]
    assert {line: list(cells) for line, cells in made.lines.items()} == {
        "a": ["M1", "M2"],
        "b": ["M1"],
        "c": ["other"],
        "d": ["other"],
    }


def test_effects_can_be_chosen_and_a_wrong_name_is_an_error(built, tmp_path):
    series = {"a label": "toy-tend"}
    figure = {"id": "chosen", "title": "Chosen", "kind": "effects", "series": series}
    project = make(tmp_path, figures=[figure])
    evidence = Evidence(project, project.paper("toy"), "laptop", tmp_path, {})
    with pytest.raises(ConfigError, match=r"figures.chosen: series: .*did you mean 'toy-trend'"):
        figures.write(project.paper("toy"), built["claims"], evidence, tmp_path / "out")
    series["a label"] = "toy-trend"
    project = make(tmp_path, figures=[figure])
    assert figures.write(project.paper("toy"), built["claims"], evidence, tmp_path / "out")[0]["drawn"]
    assert "a label" in (tmp_path / "out" / "chosen.svg").read_text(encoding="utf-8")


def test_low_confidence_is_marked_wherever_the_number_stands(built):
    assert "1004† / 1000 =" in (built["folder"] / "tables" / "sizes.md").read_text(encoding="utf-8")
    assert r"1004$^{\dagger}$ / 1000 $=$".replace("$=$", "=") in (built["folder"] / "tables" / "sizes.tex").read_text(
        encoding="utf-8"
    )
    assert "low confidence" in (built["results"] / "report" / "site" / "papers" / "toy.html").read_text(
        encoding="utf-8"
    )


@pytest.mark.parametrize(
    "said, shown",
    [
        ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
        ("a | b\n\n# c", r"a \| b # c"),
        ("`x` *y* __z__ ~w~", r"\`x\` \*y\* \_\_z\_\_ \~w\~"),
        ("![i](u) \\| &lt;", r"!\[i\](u) \\\| &amp;lt;"),
    ],
)
def test_markdown_finds_nothing_in_a_value_but_its_text(said, shown):
    lines = Sheet(said, [said], [[said]], note=said).to_markdown().splitlines()
    assert lines == [f"**{shown}**", "", f"| {shown} |", "|---|", f"| {shown} |", "", shown]


def test_latex_keeps_a_value_in_its_paragraph_and_its_line():
    sheet = Sheet("a\n\nb", ["x\ny"], [["1\r\n2"]])
    assert r"\caption{a b}" in sheet.to_latex() and "x y" in sheet.to_latex() and "\n1 2 " in sheet.to_latex()


def test_latex_escapes_what_it_must(built):
    assert latex(r"50% of a_b & {c} #1 $x ~ ^ \n < >") == (
        r"50\% of a\_b \& \{c\} \#1 \$x \textasciitilde{} \textasciicircum{} \textbackslash{}n \textless{} \textgreater{}"
    )
    source = (built["folder"] / "tables" / "all-claims.tex").read_text(encoding="utf-8")
    assert r"Toys \& Trifles: 50\% smaller\_models" in source and r"\toprule" in source
    for line in source.splitlines():
        if line.endswith(r"\\") and "&" in line and not line.startswith(r"\caption"):
            assert len(re.findall(r"(?<!\\)&", line)) == 10
    assert not re.search(r"(?<!\\)[%#_]", source)


def test_markdown_bars_do_not_break_rows():
    assert Sheet("t", ["a|b"], [["x|y"]]).to_markdown().splitlines()[-1] == "| x\\|y |"


def test_metric_names_become_columns():
    assert tables.column_names("EM, F1", 2) == ["EM", "F1"]
    assert tables.column_names("average score [GLUE, AdvGLUE]", 2) == ["GLUE", "AdvGLUE"]
    assert tables.column_names("MNLI-m/mm, QQP, avg", 3) == ["MNLI-m/mm", "QQP", "avg"]
    assert tables.column_names("accuracy", 2) == ["accuracy 1", "accuracy 2"]


def test_figures_are_drawn_where_something_is_measured(built):
    drawn = {entry["id"]: entry["drawn"] for entry in built["drawn"]}
    assert drawn == {
        "sizes": True, "table": True, "plane": True, "curve": True, "nothing": False, "effect": True, "verdicts": True,
        "agreement": True,
    }  # fmt: skip
    missing = next(entry["missing"] for entry in built["drawn"] if entry["id"] == "nothing")
    assert missing and "paper scale" in missing[0]
    for name, done in drawn.items():
        for suffix in ("svg", "png", "pdf"):
            assert (built["folder"] / "figures" / f"{name}.{suffix}").exists() is done


def test_a_paper_without_any_measurement_has_a_figure(tmp_path):
    project = make(tmp_path, figures=[])
    ids = {"laptop": build_plan(project, "laptop").named["toy"]["laptop"]}
    claims = report(project, "toy", "laptop", tmp_path / "results", ids)
    evidence = Evidence(project, project.paper("toy"), "laptop", tmp_path / "results", ids)
    assert [
        entry["id"]
        for entry in figures.write(project.paper("toy"), claims, evidence, tmp_path / "out")
        if entry["drawn"]
    ] == ["verdicts"]


def test_everything_comes_out_the_same_twice(built, tmp_path):
    again = build(tmp_path)
    for first in sorted(built["results"].rglob("*")):
        second = again["results"] / first.relative_to(built["results"])
        if first.is_file() and "runs" not in first.parts:
            assert first.read_bytes() == second.read_bytes(), first.relative_to(built["results"])


def test_scorecard_fits_a_plain_log(built):
    out = io.StringIO()
    Console(file=out, width=100).print(scorecard(built["rows"], "results/report/index.html"))
    shown = out.getvalue()
    # structural: total, share, order and three sizes match; two sizes worse; one erratum; one blocked
    assert "6 match" in shown and "2 worse" in shown and "1 paper-inconsistent" in shown and "1 blocked" in shown
    assert "[+0.516, +5.48]" in shown and "inconclusive" in shown and "results/report/index.html" in shown
    assert len(shown.splitlines()) < 30 and "\x1b" not in shown


def test_scorecard_of_many_papers_fits_a_screen():
    row = {
        "scale": "laptop",
        "low": 1.0,
        "high": 3.0,
        "seeds": 3,
        "unit": "points",
        "direction": "above",
        "our_value": 2.0,
    }
    kinds = (("structural", "worse", ""), ("trend", "reproduced", "margin 0"), ("full", "not-run", ""))
    rows = [
        {**row, "paper": f"paper{number:02}", "claim": f"c{number:02}:{kind}", "evidence": kind, "verdict": verdict, "tolerance": text}
        for number in range(42)
        for kind, verdict, text in kinds
    ]  # fmt: skip
    out = io.StringIO()
    Console(file=out, width=80).print(scorecard(rows, "results/report/index.html"))
    shown = out.getvalue()
    assert "126 claims of 42 papers" in shown and "42 worse" in shown and "42 reproduced" in shown
    assert "paper00 1, " in shown and "and 34 more papers" in shown and "and 35 more" in shown
    assert len(shown.splitlines()) <= 24


def test_the_programs_do_the_same(built, tmp_path, root):
    """The five scripts in a row, files in and files out."""
    folder, name = built["root"], "toy"

    def call(script, *arguments):
        command = [sys.executable, str(root / "scripts" / f"{script}.py"), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, encoding="utf-8", cwd=folder)

    claims = tmp_path / "claims.json"
    done = call("compare", "--paper", name, "--scale", "laptop", "--results", "results", "--out", claims)
    assert done.returncode == 0, done.stderr
    stored = json.loads((built["folder"] / "claims.json").read_text(encoding="utf-8"))
    numbers = [(row["claim"], row["our_value"], row["verdict"]) for row in stored["rows"]]
    assert [
        (row["claim"], row["our_value"], row["verdict"])
        for row in json.loads(claims.read_text(encoding="utf-8"))["rows"]
    ] == numbers
    ledger = tmp_path / "ledger.json"
    done = call("ledger", claims, "--out-csv", tmp_path / "ledger.csv", "--out-json", ledger)
    assert done.returncode == 0, done.stderr
    assert call("tables", "--paper", name, "--claims", claims, "--out", tmp_path / "tables").returncode == 0
    shared = ("--scale", "laptop", "--results", "results")
    done = call("figures", "--paper", name, "--claims", claims, *shared, "--out", tmp_path / "figures")
    assert "nothing: not drawn" in done.stdout, done.stderr
    done = call("report", "--ledger", ledger, *shared, "--out", tmp_path / "report" / "index.html")
    assert done.returncode == 0 and "inconclusive" in done.stdout, done.stderr
    done = call("compare", "--paper", "toi", "--scale", "laptop", "--out", claims)
    assert (done.returncode, "did you mean 'toy'" in done.stderr) == (2, True)


def test_a_table_of_laptop_runs_shows_means_and_spread_and_what_is_missing(tmp_path):
    cells = {"plain": {"trained": "6x768.parameters.trainable", "score": "100 * runs.plain.toy-task.accuracy"}}
    cells["slow"] = {"score": "runs.slow.toy-task.accuracy"}
    table = {"id": "arms", "title": "Arms", "arms": cells}
    project = make(tmp_path, tables=[table])
    ids = {name: build_plan(project, name).named["toy"][name] for name in ("laptop", "paper")}
    fill(tmp_path / "results", ids)
    made = report(project, "toy", "laptop", tmp_path / "results", ids)
    assert made["tables"]["arms"]["plain"]["score"] == {"mean": 84.0, "values": [82.0, 84.0, 86.0]}
    assert "missing" in made["tables"]["arms"]["slow"]["score"]
    full, short = tables.sheets(project.paper("toy"), made)["arms"]
    assert full.header == ["", "trained", "score"]
    assert full.rows == short.rows == [["plain", "47", "84 (82 to 86)"], ["slow", "", "–"]]
    # Asked for where not only quick trends are; no claim reads these runs.
    slow = ids["laptop"]["slow"]
    assert not build_plan(project, "laptop").runs[slow].seeds
    everything = make(tmp_path, claims=[claim("toy-total", value=1000)], tables=[table], figures=[])
    asked = build_plan(
        dataclasses.replace(everything, settings=everything.settings.model_copy(update={"quick": False})), "laptop"
    )
    assert asked.runs[slow].seeds == {0, 1, 2}
    with pytest.raises(ConfigError, match="tables"):
        build_plan(make(tmp_path, tables=[{**table, "arms": {"x": {"y": "runs.nothing.toy-task.accuracy"}}}]), "laptop")
    with pytest.raises(ConfigError, match=r"claims. and .arms"):
        make(tmp_path, tables=[{**table, "claims": ["toy-total"]}]).paper("toy")
