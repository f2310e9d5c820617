"""The site in a real browser: filters, a walk from a cell to its run and back, the budget, on a phone, in the dark, without a network."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess

import pytest

from tests.unit.test_report import build

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no headless browser on this machine (chromium not found)"),
]

#: A page with the site in a frame (headless Chromium's own window is at least 500 pixels wide, and a phone is not); `walk` is a test's
#: own script, which moves about in the frame and returns what becomes the text of an element that is read back.
FRAME = """<iframe style="width:WIDTHpx;height:800px;border:0"></iframe>
<script>
var frame = document.querySelector("iframe"), loaded = [];
function settle() { return new Promise(function (done) { setTimeout(done, 100); }); }
function arrive() {
  return new Promise(function (done) { frame.addEventListener("load", function () { setTimeout(done, 100); }, { once: true }); })
    .then(function () {
      frame.contentWindow.performance.getEntriesByType("resource").forEach(function (entry) { loaded.push(entry.name); });
      all("script[src], img, link:not([rel=icon])").forEach(function (item) { loaded.push(item.src || item.href); });
    });
}
function open(path) { var there = arrive(); frame.src = path; return there; }
function follow(link) { var there = arrive(); link.click(); return there; }
function all(selector) { return Array.from(frame.contentDocument.querySelectorAll(selector)); }
function one(selector) { return frame.contentDocument.querySelector(selector); }
function seen(element) { return element.getClientRects().length > 0; }
function set(element, value) {
  element.value = value; element.dispatchEvent(new frame.contentWindow.Event("input", { bubbles: true })); return settle();
}
async function walk() { WALK }
walk().catch(function (error) { return { error: String(error) }; }).then(function (found) {
  found.loaded = loaded;
  var out = document.createElement("pre"); out.id = "found"; out.textContent = JSON.stringify(found); document.body.append(out);
});
</script>
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return build(tmp_path_factory.mktemp("toy"))


@pytest.fixture
def browse(built, tmp_path):
    """Return a function that runs a script in the site and returns what it found; an error in a console fails the test."""

    def look(walk: str, width: int = 1200, *flags: str) -> dict:
        frame = built["results"] / "report" / "frame.html"
        frame.write_text(FRAME.replace("WIDTH", str(width)).replace("WALK", walk), encoding="utf-8")
        command = [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--allow-file-access-from-files", f"--user-data-dir={tmp_path}",
            "--enable-logging=stderr", "--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=20000", *flags, "--dump-dom",
            frame.as_uri(),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=300)
        text = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.S)
        assert text, done.stderr[-2000:]
        found = json.loads(html.unescape(text.group(1)))
        assert "error" not in found, found["error"]
        assert not [line for line in done.stderr.splitlines() if "CONSOLE" in line], "something was said in the console"
        assert found["loaded"] and all(name.startswith("file://") for name in found["loaded"])
        return found

    return look


#: Every kind of page.
PAGES = ["index.html"] + [
    f"site/{name}.html"
    for name in ("papers/toy", "methods/index", "methods/galore", "runs/index", "compare", "budget", "runs/RUN")
]


@pytest.mark.parametrize("width", [360, 1200])
def test_nothing_runs_over_the_edge_of_any_page_and_every_figure_is_there(browse, built, width):
    run = next(row["runs"].split()[0] for row in built["rows"] if row["claim"] == "toy-trend:trend")
    paths = json.dumps([path.replace("RUN", run) for path in PAGES])
    found = browse(
        f"""var pages = {{}};
        for (var path of {paths}) {{
          await open(path);
          all("img").forEach(function (image) {{ image.loading = "eager"; }}); await settle();
          pages[path] = [frame.contentDocument.documentElement.scrollWidth,
            all("img").every(function (image) {{ return image.complete && image.naturalWidth > 0; }}),
            all("h1").length, all("img").length];
        }}
        return {{ pages: pages }};""",
        width,
    )["pages"]
    assert len(found) == len(PAGES)
    for path, (wide, images, headings, _) in found.items():
        assert wide <= width and images and headings == 1, path
    assert found["site/papers/toy.html"][3] >= 6


def test_dark_mode_follows_the_system(browse):
    colour = """await open("index.html");
    return { back: frame.contentWindow.getComputedStyle(frame.contentDocument.body).backgroundColor };"""
    assert browse(colour)["back"] == "rgb(255, 255, 255)"
    assert browse(colour, 1200, "--blink-settings=preferredColorScheme=0")["back"] == "rgb(22, 24, 29)"


def test_the_map_shows_what_its_filters_say(browse):
    found = browse(
        """await open("index.html");
        var form = one("form"), said = [];
        function rows() { return all("#map tr[data-search]").filter(seen).length; }
        said.push([rows(), one("#map-count").textContent]);
        await set(form.elements.search, "no such paper"); said.push([rows(), one("#map-count").textContent]);
        await set(form.elements.search, "TRIFLES"); said.push([rows()]);
        await set(form.elements.evidence, "trend"); await set(form.elements.verdict, "match"); said.push([rows()]);
        await set(form.elements.verdict, "inconclusive"); said.push([rows()]);
        await set(one('select[data-key="backbones"]'), "toy"); said.push([rows()]);
        one("button[type=reset]").click(); await settle(); said.push([rows(), form.elements.search.value]);
        return { said: said };"""
    )["said"]
    # one paper; its trend is inconclusive, so no trend of it matches though structural claims do
    assert found == [[1, "1 shown"], [0, "0 shown"], [1], [0], [1], [1], [1, ""]]


def test_a_walk_from_a_cell_to_its_run_and_back(browse):
    found = browse(
        """await open("index.html");
        await follow(one("#map a"));
        var paper = frame.contentWindow.location.pathname;
        await follow(one("table.arms a.run"));
        var run = one("h1").textContent, scores = all("table td").map(function (cell) { return cell.textContent; });
        await follow(one(".mentions a"));
        var row = one(decodeURIComponent(frame.contentWindow.location.hash).replace(/[~]/g, "\\\\~"));
        var back = frame.contentWindow.location.pathname;
        return { paper: paper, back: back, run: run, scores: scores, row: seen(row), text: row.textContent };"""
    )
    assert found["paper"] == found["back"] and found["paper"].endswith("site/papers/toy.html")
    assert found["run"].startswith("Run adapt-toy-toy-task-") and "0.82" in found["scores"]
    assert found["row"] and "toy-trend:trend" in found["text"] and "inconclusive" in found["text"]


def test_the_budget_page_answers_from_what_was_measured(browse):
    found = browse(
        """await open("site/budget.html");
        function rows() { return all("#points tr[data-backbone]").filter(seen).map(function (row) { return row.cells[0].textContent; }); }
        var everything = rows(), unlimited = one("#answer").textContent;
        await set(one('input[data-axis="trained"]'), "0.00002");
        var few = rows(), limited = one("#answer").textContent;
        one("button[type=reset]").click(); await settle();
        await set(one('select[data-key="task"]'), "toy-task");
        return { everything: everything, unlimited: unlimited, few: few, limited: limited, best: one("#answer").textContent };"""
    )
    assert sorted(found["everything"]) == ["toy: 6x768", "toy: plain", "toy: small-a", "toy: toy-base"]
    # of 15 and 47 trained parameters one is below 20; the two runs' manifests count none
    assert found["few"] == ["toy: toy-base"]
    assert found["limited"].startswith("1 of 4 measured settings fit. 2 are left out")
    assert "The best score among them: toy: plain, accuracy 0.84 over 3 seeds." in found["best"]


def test_the_list_of_claims_shows_what_its_button_says(browse):
    found = browse(
        """await open("site/papers/toy.html");
        var states = {};
        all("[data-filter]").forEach(function (button) {
          button.click();
          states[button.dataset.filter] = all("table.claims tr[data-state]").filter(seen).map(function (row) { return row.dataset.state; });
        });
        return { states: states };"""
    )["states"]
    assert set(found["all"]) == {"open", "differs", "agrees"}
    assert set(found["measured"]) == {"differs", "agrees"}
    assert set(found["differs"]) == {"differs"}
    assert set(found["open"]) == {"open"}


def test_everything_can_be_reached_with_the_keyboard(browse):
    found = browse(
        """await open("site/papers/toy.html");
        return { order: all("a, button, summary, select, input").filter(seen).map(function (item) { return item.tabIndex; }),
          labels: all("select, input").map(function (item) { return item.labels.length; }),
          skip: one("a.skip").getAttribute("href") };"""
    )
    assert set(found["order"]) == {0} and all(found["labels"])
    assert found["skip"] == "#main"
