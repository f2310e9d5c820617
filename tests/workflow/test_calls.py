"""What a call of Snakemake is given with `--config`: a word is read as it was meant, or is an error of one line."""

from __future__ import annotations

import re

import pytest

from .checkout import make_checkout, snakemake

pytestmark = pytest.mark.workflow


def test_truth_values_of_a_call_are_read_as_they_are_written(tmp_path):
    folder = make_checkout(tmp_path, ["compacter"], sections=["laptop"])

    def adapted(word: str) -> int:
        dry = snakemake(folder, "-n", "--config", "scale=smoke", word).stdout
        found = re.search(r"^adapt +(\d+)$", dry, re.MULTILINE)
        return int(found[1]) if found else 0

    assert adapted("measured=false") == adapted("measured=False") > 0
    assert adapted("measured=true") == 0
    for word in ("measured=maybe", "quick=2.5", "claims=5", "scale=smok"):
        failed = snakemake(
            folder, "-n", "--config", *({"scale=smoke"} if "scale" not in word else ()), word, check=False
        )
        assert failed.returncode and f"--config: {word.partition('=')[0]}: " in failed.stdout, failed.stdout
        assert "Traceback" not in failed.stdout
