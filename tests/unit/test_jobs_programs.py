"""Programs start with what they need and no more, and the garbage collector is as it was."""

from __future__ import annotations

import gc
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from replica.errors import ConfigError
from replica.jobs.programs import importing, main, run_job, run_parser

ROOT = Path(__file__).parents[2]


def test_what_is_imported_is_taken_from_the_collector_and_the_collector_works_again():
    before = gc.get_freeze_count()
    try:
        with importing():
            assert not gc.isenabled()
            kept = [[] for _ in range(1000)]
        assert gc.isenabled()
        assert gc.get_freeze_count() >= before + len(kept)
        gc.disable()
        with importing():
            pass
        assert not gc.isenabled(), "who had switched it off keeps it off"
        gc.enable()
        with pytest.raises(ZeroDivisionError), importing():
            raise ZeroDivisionError
        assert gc.isenabled()
    finally:
        gc.enable()
        gc.unfreeze()


@pytest.mark.parametrize("returned, status", [(None, 0), (85, 85)])
def test_exit_status_is_the_programs(returned, status):
    with pytest.raises(SystemExit) as caught:
        main(lambda: returned)
    gc.unfreeze()
    assert caught.value.code == status


@pytest.mark.parametrize(
    "modules, spared",
    [
        (
            "replica.training.evaluate, replica.measure.structural",
            ("transformers.trainer", "peft", "datasets", "sklearn"),
        ),
        ("replica.tasks.kinds, replica.tasks.metrics", ("torch", "transformers", "pandas", "pyarrow", "tokenizers")),
        ("replica.tasks.preparation", ("torch", "transformers")),
        ("replica.claims.ledger", ("torch", "pandas", "scipy.stats")),
    ],
)
def test_a_program_imports_no_more_than_it_needs(modules, spared):
    code = f"import gc, sys; gc.disable(); import {modules}; print([m for m in {spared!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.strip() == "[]"


def _fail(capsys, error):
    def program():
        raise error

    with pytest.raises(SystemExit) as caught:
        main(program)
    gc.unfreeze()
    return caught.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    "error, line",
    [
        (
            PermissionError(13, "Permission denied", "a/b.json"),
            "a/b.json: Permission denied (is it another user's, or read-only?)",
        ),
        (OSError(30, "Read-only file system", "x"), "x: Read-only file system (is it another user's, or read-only?)"),
        (OSError(18, "Invalid cross-device link", "x", None, "y"), "x -> y: Invalid cross-device link"),
        (OSError(5, "Input/output error"), "Input/output error"),
        (OSError("no number\nand a second line"), "no number"),
        (
            OSError(28, "No space left on device", b"x"),
            "no space left on the disk while writing x; free some and run again",
        ),
        (ConnectionResetError(104, "Connection reset by peer"), "Connection reset by peer"),
    ],
)
def test_every_error_of_the_operating_system_is_one_line_with_its_file(capsys, error, line):
    assert _fail(capsys, error) == (2, f"error: {line}\n")


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        main(lambda: 1 // 0)
    gc.unfreeze()


def test_a_reader_that_has_gone_ends_a_program_without_a_word():
    code = "from replica.jobs.programs import main\nmain(lambda: [print('x' * 1000) for _ in range(1000)] and 0)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        child.stdout.readline()
        child.stdout.close()
        assert (child.stderr.read(), child.wait()) == (b"", 128 + signal.SIGPIPE)


#: Where a program is to write, what is in its way, and what the error says of it.
IN_THE_WAY = {
    "a file in place of assets": (
        lambda root: (root / "assets").write_text("", encoding="utf-8"),
        "assets/x",
        "assets: File exists .something else",
    ),
    "a loop of links": (lambda root: (root / "assets").symlink_to("assets"), "assets/x", "assets: "),
    "a link to nowhere": (lambda root: (root / "assets").symlink_to("gone"), "assets/x", "assets: "),
    "another's folder": (lambda root: (root / "assets").mkdir(mode=0o555), "assets/x", "assets/.*: Permission denied"),
}


@pytest.mark.parametrize("name", IN_THE_WAY)
def test_what_is_in_the_way_of_an_asset_is_named(tmp_path, name):
    place, out, message = IN_THE_WAY[name]
    place(tmp_path)
    call = ["--root", str(ROOT), "--dataset", "smoke-text", "--out", str(tmp_path / out)]
    # nothing is denied to root, unless it gives that up
    plain = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.getuid() == 0 else []
    program = [*plain, sys.executable, str(ROOT / "scripts" / "retrieve.py"), *call]
    before = sorted(tmp_path.rglob("*"))
    done = subprocess.run(program, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 2
    assert re.fullmatch(rf"error: data set 'smoke-text' from generated: cannot write .*{message}.*\n", done.stderr)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_no_library_takes_is_refused(seed):
    arguments = run_parser("x").parse_args(["--scale", "smoke", "--run", "x", "--seed", str(seed)])
    with pytest.raises(ConfigError, match=f"^--seed {seed}: a seed is a number from 0 to 4294967295"):
        run_job(arguments)
