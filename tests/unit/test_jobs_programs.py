"""Programs start with what they need and no more, and the garbage collector is as it was."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from replica.jobs.programs import importing, main


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
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
