"""The page in a real browser: on a phone, in the dark, with its filter, and without a network."""

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

#: Runs in the page after it is loaded; what it finds becomes the text of an element that is read back.
PROBE = """
<script>
window.addEventListener("load", function () {
  function visible() {
    return Array.from(document.querySelectorAll("table.claims tr[data-state]"))
      .filter(function (row) { return row.getClientRects().length; }).map(function (row) { return row.dataset.state; });
  }
  var found = {
    width: document.documentElement.scrollWidth, screen: window.innerWidth,
    back: getComputedStyle(document.body).backgroundColor,
    images: Array.from(document.images).map(function (image) { return image.complete && image.naturalWidth > 0; }),
    resources: performance.getEntriesByType("resource").map(function (entry) { return entry.name; }),
    filters: {}
  };
  document.querySelectorAll("[data-filter]").forEach(function (button) {
    button.click();
    document.querySelectorAll("section.paper > details").forEach(function (details) { details.open = true; });
    found.filters[button.dataset.filter] = visible();
  });
  var out = document.createElement("pre");
  out.id = "probe";
  out.textContent = JSON.stringify(found);
  document.body.appendChild(out);
});
</script>
"""


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    """Build the page once and return a function that opens it and returns what the probe found."""
    built = build(tmp_path_factory.mktemp("toy"))
    source = built["results"] / "report" / "index.html"
    page = source.with_name("probe.html")
    page.write_text(source.read_text(encoding="utf-8").replace('loading="lazy"', "") + PROBE, encoding="utf-8")

    def look(width: int, *flags: str) -> dict:
        # Headless Chromium has a least window width of 500 pixels, so a phone is an iframe of its width.
        frame = page.with_name("frame.html")
        frame.write_text(
            f'<iframe src="probe.html" style="width:{width}px;height:800px;border:0"></iframe><script>'
            'addEventListener("load", function () { setTimeout(function () {'
            'document.body.append(document.querySelector("iframe").contentDocument.getElementById("probe").cloneNode(true));'
            "}, 500); });</script>",
            encoding="utf-8",
        )
        profile = tmp_path_factory.mktemp("profile")
        command = [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", f"--user-data-dir={profile}",
            "--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=5000", *flags, "--dump-dom", frame.as_uri(),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        found = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.S)
        assert found, done.stderr[-2000:]
        return json.loads(html.unescape(found.group(1)))

    return look


@pytest.mark.parametrize("width", [360, 1200])
def test_nothing_runs_over_the_edge_and_every_figure_is_there(probe, width):
    found = probe(width)
    assert found["screen"] == width and found["width"] <= width
    assert found["images"] and all(found["images"])
    assert not [name for name in found["resources"] if not name.startswith("file://")]


def test_dark_mode_follows_the_system(probe):
    light, dark = probe(800), probe(800, "--blink-settings=preferredColorScheme=0")
    assert light["back"] == "rgb(255, 255, 255)" and dark["back"] == "rgb(22, 24, 29)"


def test_the_filter_shows_what_its_button_says(probe):
    found = probe(800)["filters"]
    assert set(found["all"]) == {"open", "differs", "agrees"}
    assert set(found["measured"]) == {"differs", "agrees"}
    assert set(found["differs"]) == {"differs"}
    assert set(found["open"]) == {"open"}
