"""Publishing and adopting where hundreds of runs are published: what is not new, or not asked for, costs next to nothing."""

from __future__ import annotations

import time

import pytest

from replica.sharing import index
from replica.sharing.adopt import adopt
from replica.sharing.publish import publish
from tests.unit.published_project import SOMEBODY, clone, default_remote, finish, planned, under_version_control
from tests.unit.small_project import paper, write_project

pytestmark = pytest.mark.workflow
#: Pairs of runs that a trend compares, three seeds each: 504 published seeds.
PAIRS = 84


def _many() -> dict:
    item = paper(id="many")
    [claim] = item["claims"]
    item["runs"]["laptop"] = {
        f"arm{number}": {"stage": "adapt", "model": "small", "task": "words", "train": {"steps": 100 + number}}
        for number in range(2 * PAIRS)
    }
    item["claims"] = []
    for number in range(PAIRS):
        effect = f"runs.arm{2 * number}.words.accuracy - runs.arm{2 * number + 1}.words.accuracy"
        item["claims"].append({**claim, "id": f"gain-{number}", "trend": {**claim["trend"], "effect": effect}})
    return item


def test_five_hundred_runs(tmp_path, monkeypatch, record_testsuite_property):
    for name, value in SOMEBODY.items():
        monkeypatch.setenv(name, value)
    few = paper(id="few")
    few["runs"]["laptop"]["student"].pop("tune")
    folder = under_version_control(write_project(tmp_path / "project", _many(), few, settings={"scale": "laptop"}))
    finish(folder)
    default_remote(folder, tmp_path / "remote")

    def timed(call):
        started = time.perf_counter()
        done = call()
        return done, time.perf_counter() - started

    first, seconds = timed(lambda: publish(*planned(folder), [], []))
    runs = [name for name in index.read(folder) if name.startswith("runs/")]
    assert len(runs) >= 504 and len(first.new) == len(index.read(folder))
    record_testsuite_property("publish 500 runs, s", round(seconds, 1))

    again, seconds = timed(lambda: publish(*planned(folder), [], []))
    assert (again.new, again.commit) == ([], None)
    record_testsuite_property("publish nothing new, s", round(seconds, 1))
    assert seconds < 20

    other = clone(folder, tmp_path / "clone")
    taken, seconds = timed(lambda: adopt(*planned(other), ["few"]))
    record_testsuite_property("adopt one paper of them, s", round(seconds, 1))
    assert len(taken.taken) < 15 and not any("many" in name for name in taken.taken)
    cached = [path for path in (other / ".dvc" / "cache").rglob("*") if path.is_file()]
    assert len(cached) == len(taken.taken), "nothing of the others was fetched"
    here = {path.parent.name for path in (other / "results" / "laptop" / "runs").glob("*/seed*")}
    assert here == {name.split("/")[2].rpartition("-seed")[0] for name in taken.taken if name.startswith("runs/")}
