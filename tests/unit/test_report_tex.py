"""What a paper takes over compiles: every paper's LaTeX tables, and the bibliography."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from replica.claims.compare import report
from replica.config import load_project
from replica.config.schema import Paper
from replica.plan import build_plan
from replica.report import tables
from replica.report.bibliography import bibtex, entry
from replica.report.sheets import Sheet
from tests.conftest import ROOT

#: What a table's lines may be drawn with.
BOOKTABS = {"toprule", "midrule", "bottomrule"}
PREAMBLE = r"""\documentclass{article}
\usepackage[T1]{fontenc}\usepackage[utf8]{inputenc}\usepackage{booktabs,longtable}
\begin{document}
"""


@pytest.fixture(scope="module")
def project():
    return load_project(ROOT)


@pytest.fixture(scope="module")
def sources(project, tmp_path_factory):
    """LaTeX of every enabled paper's tables, with nothing measured: all of the papers' own texts stand in them."""
    results, plan = tmp_path_factory.mktemp("results"), build_plan(project, "laptop")
    found = {}
    for name, paper in project.papers.items():
        claims = report(project, name, "laptop", results, plan.named[name])
        for table, (_, sheet) in tables.sheets(paper, claims).items():
            found[f"{name}-{table}"] = sheet.to_latex()
    hard = Sheet('50 % & "q" {x} \\ ^ ~ # $ _ | <', ["", "a"], [["[1]", "*"], ["*2", "[3]"]], note="± × → ✓ ✗ ⊘")
    return {**found, "hard": hard.to_latex(), "hard-long": Sheet(**{**vars(hard), "long": True}).to_latex()}


def test_tables_are_drawn_with_booktabs_alone_and_every_line_has_all_columns(sources):
    assert len(sources) > 80
    for name, source in sources.items():
        assert set(re.findall(r"\\(\w*(?:rule|line))\b", source)) == BOOKTABS, name
        [columns] = re.findall(r"\\begin\{(?:tabular|longtable)\}\{((?:l|p\{[^}]*\})+)\}", source)
        wide = len(re.findall(r"l|p\{[^}]*\}", columns))
        lines = [line for line in source.splitlines() if line.endswith(r" \\")]
        assert len(lines) >= 1 and {len(re.findall(r"(?<!\\)&", line)) for line in lines} == {wide - 1}, name
        assert not [line for line in lines if line.startswith(("[", "*"))], name
        assert not [letter for letter in source if ord(letter) > 0x17F], f"{name}: a letter that T1 fonts lack"


def _tex(*programs):
    lacking = [program for program in programs if shutil.which(program) is None]
    if lacking:
        pytest.skip(
            f"no {', '.join(lacking)} on this machine: nothing was compiled (Debian: apt install texlive-latex-recommended)"
        )


def _run(folder, *command):
    done = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8", errors="replace", timeout=300)
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


def test_every_table_compiles(sources, tmp_path):
    _tex("pdflatex")
    (tmp_path / "all.tex").write_text(PREAMBLE + "\\clearpage\n".join(sources.values()) + r"\end{document}", "utf-8")
    _run(tmp_path, "pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex")
    assert (tmp_path / "all.pdf").stat().st_size > 10_000


def test_the_bibliography_compiles(project, tmp_path):
    _tex("pdflatex", "bibtex")
    (tmp_path / "papers.bib").write_text(bibtex(project.papers.values()), "utf-8")
    body = r"\nocite{*}\bibliographystyle{plain}\bibliography{papers}\end{document}"
    (tmp_path / "all.tex").write_text(PREAMBLE + body, "utf-8")
    latex = ("pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex")
    _run(tmp_path, *latex)
    assert "warning" not in _run(tmp_path, "bibtex", "all").lower()
    _run(tmp_path, *latex)


def parse(text):
    """Read BibTeX by its grammar: entries, keys, fields in braces that balance."""
    found, place = {}, 0
    while start := re.compile(r"\s*@(\w+)\{([^,\s{}]+),").match(text, place):
        fields, place = {}, start.end()
        while field := re.compile(r"\s*(\w+)\s*=\s*\{").match(text, place):
            depth, place = 1, field.end()
            begin = place
            while depth:
                depth += {"{": 1, "}": -1}.get(text[place], 0)
                place += 1
            fields[field[1]] = text[begin : place - 1]
            assert text[place] == ","
            place += 1
        end = re.compile(r"\s*\}").match(text, place)
        assert end and start[2] not in found
        place = end.end()
        found[start[2]] = (start[1], fields)
    assert not text[place:].strip()
    return found


def test_the_bibliography_has_each_paper_under_its_id(project):
    found = parse(bibtex(project.papers.values()))
    assert list(found) == sorted(project.papers)
    for name, paper in project.papers.items():
        kind, fields = found[name]
        assert kind == "misc" and fields["year"] == str(paper.year) and fields["howpublished"]
        assert len(fields["author"].split(" and ")) == len(paper.authors.split(", "))
        assert fields.get("eprint") == paper.arxiv
    assert found["minilm"][1]["author"] == "{Wang} and {Wei} and {Dong} and {Bao} and {Yang} and {Zhou}"
    assert found["dsee"][1]["author"].startswith("{Chen}, X. and {Chen}, T. and")
    assert found["compacter"][1]["author"].startswith("{Karimi Mahabadi} and ")
    assert found["minilm"][1]["doi"] == "10.48550/arXiv.2002.10957"


def test_an_entry_stays_whole_whatever_a_title_holds():
    paper = Paper(
        id="odd", title="A } B { 50 % of\n  C & {D}", authors="Li, et al.", year=2020, venue="V_1", arxiv="1}2", families=[],
        summary="", claims=[],
    )  # fmt: skip
    [(_, fields)] = parse(entry(paper)).values()
    assert fields["title"] == (
        r"{A \textbraceright{} B \textbraceleft{} 50 \% of C \& \textbraceleft{}D\textbraceright{}}"
    )
    assert fields["author"] == "{Li} and others" and fields["howpublished"] == r"V\_1"
    assert fields["eprint"] == r"1\textbraceright{}2"
