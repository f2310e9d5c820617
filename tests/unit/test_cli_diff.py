"""`replica diff`: what two ledgers differ in, between commits and folders, in a terminal, as Markdown and as a page."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from replica.claims.changes import changes
from replica.claims.compare import COLUMNS
from replica.claims.ledger import to_json
from replica.errors import ResultError

MARKUP = "<img src=x onerror=alert(1)> [bold]x[/bold] | `y`"


def row(claim, verdict="match", ours=10.0, paper="minilm", **more):
    values = {"evidence": "structural", "scale": "laptop", "paper_value": 10, "unit": "M", "direction": "equal"}
    return {
        **dict.fromkeys(COLUMNS),
        "paper": paper,
        "claim": claim,
        "verdict": verdict,
        "our_value": ours,
        **values,
        **more,
    }


BEFORE = [
    row("same"),
    row("moved", ours=8, low=7, high=9),
    row("judged"),
    row("made", verdict="not-run", ours=None),
    row("edited", tolerance="± 1"),
    row("gone"),
]
AFTER = [
    row("same"),
    row("moved", ours=6, low=5, high=7),
    row("judged", verdict="worse"),
    row("made", ours=3.5),
    row("edited", tolerance="± 3 %"),
    row("new", unit=MARKUP),
]


def _names(found):
    return [change.after["claim"] for change in found]


def test_each_difference_is_found_once_in_its_list():
    found = changes(BEFORE, AFTER)
    assert _names(found.verdicts) == ["judged", "made"]
    assert _names(found.numbers) == ["made", "moved"]
    assert _names(found.claimed) == ["edited"]
    assert [item["claim"] for item in found.appeared] == ["new"]
    assert [item["claim"] for item in found.disappeared] == ["gone"]
    # before: same, moved, judged, edited, gone match; after: same, moved, made, edited, new
    assert found.counted() == [("match", 5, 5), ("worse", 0, 1), ("not-run", 1, 0)]
    assert not changes(AFTER, AFTER)


@pytest.mark.parametrize(
    ("old", "new", "share"), [(8.0, 6.0, -0.25), (-2.0, -1.0, 0.5), (0, 1, None), (None, 1, None), (4, 5, 0.25)]
)
def test_relative_change_is_a_share_of_the_old_numbers_size(old, new, share):
    [change] = changes([row("a", ours=old)], [row("a", ours=new)]).numbers
    assert change.relative == share


def test_a_row_that_stands_twice_is_an_error_that_names_the_ledger():
    with pytest.raises(ResultError, match="old: row minilm a appears twice"):
        changes([row("a"), row("a")], [], ("old", "new"))


@pytest.fixture
def checkout(tmp_path):
    """A repository whose two commits pin the two ledgers; its first commit pins none."""
    root = tmp_path / "checkout"
    pinned = root / "results" / "pinned"
    pinned.mkdir(parents=True)
    _git(root, "init", "--quiet")
    _git(root, "commit", "--quiet", "--allow-empty", "--message", "empty")
    for name, rows in (("before", BEFORE), ("after", AFTER)):
        (pinned / "claims.json").write_text(to_json(rows), encoding="utf-8")
        _git(root, "add", "results")
        _git(root, "commit", "--quiet", "--message", name)
        _git(root, "tag", name)
    return root


def _git(root, *arguments):
    author = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    subprocess.run(["git", *author, *arguments], cwd=root, check=True)


def _diff(root, capsys, monkeypatch, *arguments):
    from replica.cli import main, terminal

    monkeypatch.setattr(terminal.console, "width", 240)
    monkeypatch.setattr(sys, "argv", ["replica", "--root", str(root), "diff", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    said = capsys.readouterr()
    return stopped.value.code or 0, said.out, said.err


def _line(text, name):
    [*_, line] = [line for line in text.splitlines() if f" {name} " in line]
    return line


def test_two_commits_in_a_terminal(checkout, capsys, monkeypatch):
    code, out, _ = _diff(checkout, capsys, monkeypatch, "before", "after")
    assert code == 0
    assert "2 changed verdicts, 2 changed numbers, 1 changed claims, 1 appeared, 1 disappeared; 6 rows before" in out
    assert "8 [7, 9] → 6 [5, 7] M" in _line(out, "moved") and "-25 %" in _line(out, "moved")
    assert "match → worse" in _line(out, "judged")
    assert "± 1 → ± 3 %" in _line(out, "edited")
    assert "[bold]x[/bold]" in out, "a ledger's text is not taken for rich's markup"


def test_markdown_is_short_and_holds_no_html(checkout, capsys, monkeypatch):
    _, out, _ = _diff(checkout, capsys, monkeypatch, "before", "after", "--markdown", "--most", "1")
    assert out.index("Rows by verdict") < out.index("Changed verdicts") < out.index("Changed numbers")
    assert "and 1 more" in out and "| moved |" not in out
    assert "<img" not in out and "&lt;img" in out
    assert r"\| \`y\`" in out and r"\[bold\]" in out, "a bar in a cell does not open a column"
    _, out, _ = _diff(checkout, capsys, monkeypatch, "after", "after", "--markdown")
    assert "no verdict, number or claim differs (6 rows)" in out and "|" not in out


class _Page(HTMLParser):
    def __init__(self, content):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(content)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


def test_the_page_escapes_what_a_ledger_says_and_loads_nothing(checkout, capsys, monkeypatch, tmp_path):
    page = tmp_path / "pages" / "changes.html"
    code, _, _ = _diff(checkout, capsys, monkeypatch, "before", "after", "--html", page)
    shown = _Page(page.read_text(encoding="utf-8"))
    assert code == 0 and MARKUP in shown.text
    assert not {"img", "script", "link", "iframe"} & {tag for tag, _ in shown.tags}
    assert not [value for _, values in shown.tags for key, value in values.items() if key in ("src", "href")]
    assert all(item in shown.text for item in ("moved", "judged", "made", "edited", "new", "gone"))


def test_folders_and_the_working_copy(checkout, capsys, monkeypatch, tmp_path):
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "claims.json").write_text(to_json(BEFORE), encoding="utf-8")
    _, out, _ = _diff(checkout, capsys, monkeypatch, folder, "before")
    assert "no verdict, number or claim differs" in out
    _, out, _ = _diff(checkout, capsys, monkeypatch, "after")
    assert "after → results/pinned/claims.json" in out and "differs" in out
    (checkout / "results" / "claims.json").write_text(to_json(BEFORE), encoding="utf-8")
    _, out, _ = _diff(checkout, capsys, monkeypatch, "after")
    assert "after → results/claims.json" in out and "2 changed verdicts" in out


def test_status_says_whether_something_changed_only_when_asked(checkout, capsys, monkeypatch):
    assert _diff(checkout, capsys, monkeypatch, "before", "after", "--fail-on-change")[0] == 1
    assert _diff(checkout, capsys, monkeypatch, "after", "after", "--fail-on-change")[0] == 0


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("nowhere", "after"), "'nowhere': neither a folder nor a commit"),
        (("after~9", "after"), "'after~9': neither a folder nor a commit"),
        (("before~1", "after"), "'before~1': no results/pinned/claims.json at this commit"),
        (("after", "{empty}"), "no claims.json in this folder"),
        (("after", "{broken}"), "claims.json: corrupt, not JSON"),
        (("after", "{list}"), "claims.json: not a ledger"),
        (("after", "{verdict}"), "row minilm a has the unknown verdict 'fine'"),
        (("before", "after", "--most", "-1"), "--most -1"),
        (("before", "after", "--html", "{empty}"), "is a folder; name the file"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(checkout, capsys, monkeypatch, tmp_path, names, said):
    contents = {"broken": "[{", "list": json.dumps([1]), "verdict": to_json([row("a", verdict="fine")])}
    for name in ("empty", *contents):
        (tmp_path / name).mkdir()
    for name, content in contents.items():
        (tmp_path / name / "claims.json").write_text(content, encoding="utf-8")
    named = [str(tmp_path / name.strip("{}")) if name.startswith("{") else name for name in names]
    page = tmp_path / "page.html"
    wanted = [] if "--html" in named else ["--html", page]
    code, out, err = _diff(checkout, capsys, monkeypatch, *named, *wanted)
    assert code == 2 and not out and len(err.splitlines()) == 1 and said in err
    assert not page.exists() and not list(Path(tmp_path / "empty").iterdir())


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1", "git config --global --add safe.directory"),
        ("PATH", "/nowhere", "git cannot be started (git: No such file or directory); install it"),
    ],
    ids=["another's repository", "no git"],
)
def test_git_that_cannot_work_is_one_line_with_its_own_words(checkout, capsys, monkeypatch, variable, value, said):
    monkeypatch.setenv(variable, value)
    code, out, err = _diff(checkout, capsys, monkeypatch, "after")
    assert code == 2 and not out and len(err.splitlines()) == 1 and said in err


def test_no_locale_decides_what_a_ledger_says(checkout):
    """In an ASCII locale two equal ledgers differ in nothing, and what it cannot show is written as an escape."""
    (checkout / "results" / "claims.json").write_text(to_json(AFTER), encoding="utf-8")
    plain = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "replica.cli", "--root", str(checkout), "diff"]
    same = subprocess.run([*command, "after", "--fail-on-change"], env=plain, capture_output=True, encoding="ascii")
    assert (same.returncode, same.stderr) == (0, "")
    other = subprocess.run([*command, "before"], env=plain, capture_output=True, encoding="ascii")
    assert r"\xb1 1 \u2192 \xb1 3 %" in other.stdout and not other.stderr
