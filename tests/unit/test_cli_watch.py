"""`replica watch`: what runs, how far it is and when it will end, read from the files that jobs leave."""

from __future__ import annotations

import json
import os
import platform
import sys
import threading
import time
from collections import Counter

import pytest

from replica.cli import watch as module
from replica.cli.terminal import plain_console
from replica.config import load_project
from replica.files import write_json
from replica.jobs.progress import Watcher, measured
from replica.jobs.snakemake_records import Records
from replica.paths import Layout
from replica.plan import build_plan
from replica.plan.planned_jobs import planned_jobs
from replica.training import steps

from .small_project import write_project


@pytest.fixture
def folder(tmp_path):
    """A project with a teacher of one seed, a student (two tried values) and a plain arm of three seeds each."""
    return write_project(tmp_path)


class Site:
    """A checkout in which jobs are begun and ended by hand."""

    def __init__(self, folder):
        self.root, self.layout = folder, Layout(folder)
        self.project = load_project(folder)
        self.plan = build_plan(self.project, "laptop")
        self.jobs = planned_jobs(self.project, self.plan)
        self.marks = Records(folder).persistence

    def of(self, rule, seed=None):
        return [job for job in self.jobs if job.rule == rule and (seed is None or job.run == (job.run[0], seed))]

    def lock(self):
        lock = self.root / ".snakemake" / "locks" / "0.input.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        lock.touch()
        return lock

    def submit(self, job):
        self.marks._mark_incomplete(job.output, None)

    def write(self, job, text=""):
        path = self.layout.log(job.rule, job.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def process(self, job, host=None, pid=None):
        record = {"pid": pid or os.getpid(), "host": host or platform.node()}
        write_json(self.layout.resume("laptop", *job.run) / "process.json", record)

    def end(self, job, seconds=None):
        for path, text in (
            (self.root / job.output, "{}"),
            (self.layout.benchmark(job.rule, job.name), f"s\th:m:s\n{seconds}\t0\n"),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        self.marks._unmark_incomplete(job.output)

    def look(self):
        return Watcher(self.layout, self.plan, self.jobs).look()


def test_jobs_are_those_of_the_plan(folder):
    site = Site(folder)
    counts = {"measure_structure": 1, "prepare": 1, "train": 1, "compress": 5, "adapt": 3, "evaluate": 6}
    assert Counter(job.rule for job in site.jobs) == counts  # two candidates, three seeds of each run with claims
    outputs = {job.output for job in site.jobs}
    assert len(outputs) == len(site.jobs)
    for job in site.jobs:
        if job.rule in ("compress", "adapt", "evaluate"):
            known = [name for name in job.inputs if "assets/models" not in name]
            assert outputs >= set(known) and known


def test_done_running_submitted_and_failed_are_told_apart(folder):
    site = Site(folder)
    [teacher], [data], (first, second, third) = site.of("train"), site.of("prepare"), site.of("adapt")
    assert site.look().over, "nothing runs"
    site.lock()
    site.end(data, 3)
    for job in (teacher, first, second):
        site.submit(job)
    site.process(teacher, host="node7")
    site.write(teacher, f"loading\n{steps.line(20, 100, 0.5, 4.0, 20)}\n{steps.line(40, 100, 0.25, 4.0, 15)}\n")
    site.write(first)
    site.write(third, "error: no such thing\n")
    found = site.look()
    assert (found.done, found.total, found.at_work) == (1, len(site.jobs), True)
    assert [(item.job, item.host) for item in found.running] == [(teacher, "node7"), (first, None)]
    assert found.running[0].step == steps.Step(40, 100, 0.25, 15)
    assert found.submitted == [second] and found.failed == [third]


def test_marks_of_a_snakemake_that_was_killed_are_no_running_jobs(folder):
    site = Site(folder)
    [teacher] = site.of("train")
    site.submit(teacher)
    site.write(teacher)
    assert site.look().over
    lock = site.lock()
    assert [item.job for item in site.look().running] == [teacher]
    lock.unlink()
    assert site.look().over


def test_steps_of_an_earlier_try_are_not_shown(folder):
    site = Site(folder)
    [teacher] = site.of("train")
    site.lock()
    site.write(teacher, steps.line(90, 100, 0.5, 4.0, 3) + "\n")
    old = time.time() - 500
    os.utime(site.layout.log(teacher.rule, teacher.name), (old, old))
    site.process(teacher)
    [item] = site.look().running
    assert item.step is None and item.seconds < 400


def test_rest_is_estimated_from_measured_times_of_like_jobs(folder):
    site = Site(folder)
    for job in site.jobs:
        site.end(job, 10)
    assert site.look().left is None
    *_, last = plain = site.of("adapt")
    for job, seconds in zip(plain[:-1], (30, 50), strict=True):
        site.end(job, seconds)
    (site.root / last.output).unlink()
    assert site.look().left == pytest.approx(40), "the mean of the run's other seeds, 30 and 50 seconds"
    for job in plain:
        (site.root / job.output).unlink(missing_ok=True)
    [teacher] = site.of("train")
    (site.root / teacher.output).unlink()
    # no seed of either is done, nor another job of the rules: the plan's estimates, of three jobs and one, one at a time
    assert site.look().left == pytest.approx(3 * last.seconds + teacher.seconds)
    site.lock()
    site.process(plain[0])
    site.process(plain[1])
    site.write(plain[0], steps.line(1, 10, 0.5, 1.0, 900) + "\n")
    # two at a time would halve it, but one of them alone takes 900 s
    assert site.look().left == pytest.approx(900)


def test_a_chain_takes_as_long_as_its_jobs_one_after_the_other(folder):
    site = Site(folder)
    for job in site.jobs:
        site.end(job, 10)
    students = site.of("compress")
    [teacher] = site.of("train")
    (site.root / teacher.output).unlink()
    later = next(job for job in students if teacher.output in job.inputs and job.run[1] == 1)
    (site.root / later.output).unlink()
    site.lock()
    site.process(teacher)
    site.write(teacher, steps.line(1, 10, 0.5, 1.0, 60) + "\n")
    site.process(later)
    site.write(later, steps.line(1, 10, 0.5, 1.0, 20) + "\n")
    assert site.look().left == pytest.approx(80)


@pytest.mark.parametrize(
    ("text", "seconds"), [("s\th:m:s\n12.5\t0:12\n", 12.5), ("s\th:m:s\n-\t-\n", None), ("", None), ("a\n1\n", None)]
)
def test_benchmark_files_without_a_time_count_for_nothing(tmp_path, text, seconds):
    path = tmp_path / "a.tsv"
    path.write_text(text, encoding="utf-8")
    assert measured(path) == seconds
    assert measured(tmp_path / "none.tsv") is None


def _watch(folder, capsys, monkeypatch, *arguments, console=None):
    from replica.cli import main

    monkeypatch.setattr(module, "console", console or plain_console(soft_wrap=True))
    monkeypatch.setattr(sys, "argv", ["replica", "--root", str(folder), "watch", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    said = capsys.readouterr()
    return stopped.value.code or 0, said.out, said.err


def _at_work(folder):
    site = Site(folder)
    [teacher] = site.of("train")
    lock = site.lock()
    site.process(teacher, host="node7")
    site.write(teacher, steps.line(40, 100, 0.25, 4.0, 150) + "\n")
    return site, teacher, lock


def test_a_look_at_what_runs(folder, capsys, monkeypatch):
    site, teacher, _ = _at_work(folder)
    code, out, _ = _watch(folder, capsys, monkeypatch, "--once")
    head, running = out.splitlines()
    assert code == 0 and f"0 of {len(site.jobs)} jobs done, 1 running; about " in head
    assert running.split("  ") == [
        "train", f"{teacher.run[0]}-seed0", "step 40/100, loss 0.2500, 2 min left", "on node7"
    ]  # fmt: skip


def test_a_log_gets_a_line_a_look_until_nothing_runs(folder, capsys, monkeypatch):
    site, teacher, lock = _at_work(folder)

    def pass_time(seconds):
        assert seconds == 7
        (site.layout.resume("laptop", *teacher.run) / "process.json").unlink()
        site.end(teacher, 5)
        lock.unlink()

    monkeypatch.setattr(module.time, "sleep", pass_time)
    code, out, _ = _watch(folder, capsys, monkeypatch, "--every", "7")
    first, second, last = out.splitlines()
    assert code == 0 and "step 40/100, loss 0.2500" in first and "\x1b" not in out
    assert f"1 of {len(site.jobs)} jobs done, 0 running" in second
    assert last.startswith("nothing runs here")


def test_a_terminal_is_renewed_in_place(folder, capsys, monkeypatch):
    site, teacher, lock = _at_work(folder)
    looks = []

    def pass_time(seconds):
        looks.append(seconds)
        (site.layout.resume("laptop", *teacher.run) / "process.json").unlink()
        lock.unlink()

    monkeypatch.setattr(module.time, "sleep", pass_time)
    _, out, _ = _watch(folder, capsys, monkeypatch, console=plain_console(force_terminal=True, width=160, height=30))
    assert looks == [5] and "step 40/100, loss 0.2500, 2 min left" in out and "\x1b[" in out


def test_many_running_jobs_fit_the_screen_and_the_line(folder):
    site = Site(folder)
    running = [module.Running(job, 5.0) for job in site.jobs]
    found = module.Look(total=99, running=running, left=7200.0)
    console = plain_console(width=120, height=14, record=True, file=open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    console.print(module.picture(found, 14))
    assert len(console.export_text().splitlines()) <= 14
    assert f"and {len(running) - 3} more" in module.line(found)
    assert "about 2.0 h left" in module.line(found)


@pytest.mark.parametrize(
    ("arguments", "said"), [(["--every", "0"], "--every 0"), (["nobody"], "nobody"), (["--scale", "big"], "big")]
)
def test_a_mistake_is_one_line(folder, capsys, monkeypatch, arguments, said):
    code, out, err = _watch(folder, capsys, monkeypatch, "--once", *arguments)
    assert code == 2 and not out and len(err.splitlines()) == 1 and said in err


def test_a_broken_process_record_is_one_line(folder, capsys, monkeypatch):
    site = Site(folder)
    [teacher] = site.of("train")
    record = site.layout.resume("laptop", *teacher.run) / "process.json"
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps([1]), encoding="utf-8")
    code, _, err = _watch(folder, capsys, monkeypatch, "--once")
    assert code == 2 and "process.json" in err and len(err.splitlines()) == 1


def test_a_workflow_says_it_beside_its_own_output_whatever_a_look_finds(folder):
    site, teacher, _ = _at_work(folder)
    said, enough = [], threading.Event()

    def say(text):
        said.append(text)
        if len(said) == 2:
            record = site.layout.resume("laptop", *teacher.run) / "process.json"
            record.write_text("[1]", encoding="utf-8")
        elif len(said) == 3:
            enough.set()

    ended = module.progress_thread(site.project, site.plan, say, every=0.01)
    assert enough.wait(60)
    ended.set()
    assert "jobs are done; the rest is about" in said[0] and "of one job at a time" in said[0]
    assert "1 running" in said[1] and "step 40/100" in said[1]
    assert said[2].startswith("progress: ") and "process.json" in said[2]
