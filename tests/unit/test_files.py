"""Files are there whole or not at all, and what a killed process left goes when the next one writes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from replica import files
from replica.files import atomic_folder, atomic_path, remove_folder, remove_leftovers

KILLED = """
import os, signal, sys
from replica import files
from replica.files import atomic_folder, atomic_path
with {how}(sys.argv[1]) as temporary:
    os.kill(os.getpid(), signal.SIGKILL)
"""


def _kill(how, path):
    done = subprocess.run([sys.executable, "-c", KILLED.format(how=how), str(path)], check=False)
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize("how", ["atomic_folder", "atomic_path"])
def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path, how):
    _kill(how, tmp_path / "seed1")
    [left] = tmp_path.iterdir()
    others = [tmp_path / name for name in (".seed10.abcdefgh", ".seed1.snakemake_timestamp", "seed1", "seed2")]
    others.append(tmp_path / left.name.replace(".seed1.", ".seed11."))
    for other in others:
        other.mkdir()
    assert remove_leftovers(tmp_path / "seed1") == [left]
    assert sorted(tmp_path.iterdir()) == sorted(others)


def test_the_next_writer_removes_what_is_left_of_dead_processes_of_its_machine(tmp_path):
    _kill("atomic_folder", tmp_path / "tables")
    [left] = tmp_path.iterdir()
    elsewhere = tmp_path / f".tables.00000000-{left.name.partition('-')[2]}"
    living = tmp_path / left.name.replace(left.name.split(".")[2], f"{files._host()}-{os.getppid()}")
    for other in (elsewhere, living):
        other.mkdir()
    with atomic_folder(tmp_path / "tables") as folder:
        (folder / "a.csv").write_text("1", encoding="utf-8")
    assert sorted(tmp_path.iterdir()) == sorted([tmp_path / "tables", elsewhere, living])


def test_nothing_is_left_where_writing_fails(tmp_path):
    for make in (atomic_folder, atomic_path):
        with pytest.raises(ZeroDivisionError), make(tmp_path / "x"):
            raise ZeroDivisionError
    assert remove_leftovers(tmp_path / "x") == [] and not list(tmp_path.iterdir())


@pytest.mark.parametrize("one_step", [True, False])
def test_a_folder_takes_the_place_of_whatever_has_its_name(tmp_path, monkeypatch, one_step):
    if not one_step:
        monkeypatch.setattr(files.ctypes, "CDLL", lambda *arguments, **options: object())
    aim = tmp_path / "aim"
    aim.mkdir()
    (aim / "kept").write_text("kept", encoding="utf-8")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old").write_text("old", encoding="utf-8")
    (tmp_path / "b").symlink_to(aim)
    (tmp_path / "c").write_text("a file", encoding="utf-8")
    for name in "abcd":
        with atomic_folder(tmp_path / name) as folder:
            (folder / "new").write_text("new", encoding="utf-8")
        assert [path.name for path in (tmp_path / name).iterdir()] == ["new"] and not (tmp_path / name).is_symlink()
    assert (aim / "kept").read_text(encoding="utf-8") == "kept" and len(list(tmp_path.iterdir())) == 5


def test_old_or_new_is_there_at_every_moment(tmp_path):
    aim, missing, stop = tmp_path / "aim", [], threading.Event()

    def look():
        while not stop.is_set():
            try:
                os.stat(aim / "number")
            except FileNotFoundError:
                missing.append(1)

    def write(number):
        with atomic_folder(aim) as folder:
            (folder / "number").write_text(str(number), encoding="utf-8")

    write(0)
    watcher = threading.Thread(target=look)
    watcher.start()
    for number in range(1, 50):
        write(number)
    stop.set()
    watcher.join()
    assert not missing and (aim / "number").read_text(encoding="utf-8") == "49"


def test_a_folder_leaves_its_name_before_its_contents_go(tmp_path, monkeypatch):
    folder = tmp_path / "state"
    folder.mkdir()
    (folder / "complete.json").write_text("{}", encoding="utf-8")
    monkeypatch.setattr(files.shutil, "rmtree", lambda *arguments, **options: None)  # killed here
    remove_folder(folder)
    assert not folder.exists()
    monkeypatch.undo()
    [left] = remove_leftovers(folder)
    assert not left.exists() and not list(tmp_path.iterdir())
    remove_folder(folder)  # none is there
