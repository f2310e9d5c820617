"""Configurations damaged at random: each is refused in one line that names the file, or is legal; none ends in a traceback or never."""

from __future__ import annotations

import random
import string
from collections import Counter

import pytest

from replica.claims.expressions import FUNCTIONS, evaluate, parse
from replica.errors import ConfigError
from tests.unit.config_mutants import KINDS, Mutants, verdict

WORDS = (
    *FUNCTIONS, *"+-*/(),", "**", "//", " ",
    "1", "0", "2.5", "1e308", ".5", "1e", "a.b", "runs.x.y.z", "`c++`.d", "`", "--", "x-1", "x - 1", "é",
    "lambda", "if", "else", "True", "None", "[", "]", "{", "}", ":", "=", "'", "__class__", ".__", "\n", "\0", "j", "0x10", "1_0",
)  # fmt: skip


def _wrong(mutants: Mutants, count: int) -> tuple[list[str], Counter]:
    wrong, kinds = [], Counter()
    for number in range(count):
        mutant = mutants.draw()
        outcome, message = mutants.outcome(mutant)
        kinds[mutant.kind, outcome] += 1
        if problem := verdict(mutant, outcome, message):
            wrong.append(f"{number}: {mutant.kind}: {mutant.file}: {mutant.what[:150]}: {problem}")
    return wrong, kinds


def test_the_files_that_are_damaged_are_accepted_as_they_are(root, tmp_path):
    mutants = Mutants(root, tmp_path / "copy", 0)
    for _ in range(5):
        mutant = mutants.draw()
        mutant.content = (tmp_path / "copy" / mutant.file).read_bytes()
        assert mutants.outcome(mutant) == ("accepted", "")


def test_damaged_configurations_are_refused_in_one_line(root, tmp_path):
    wrong, _ = _wrong(Mutants(root, tmp_path / "copy", 5), 30)
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_thousand_damaged_configurations_are_refused_in_one_line(root, tmp_path):
    wrong, kinds = _wrong(Mutants(root, tmp_path / "copy", 2026), 1000)
    assert not wrong, "\n".join(wrong)
    assert {kind for kind, _ in kinds} == {make.__name__.replace("_", " ") for make in KINDS}
    assert sum(count for (_, outcome), count in kinds.items() if outcome == "refused") > 700, kinds


def _expression(draw: random.Random) -> str:
    if draw.random() < 0.3:
        return "".join(draw.choice(string.printable) for _ in range(draw.randint(0, 30)))
    return "".join(draw.choice(WORDS) for _ in range(draw.randint(1, 14)))


@pytest.mark.parametrize("count", [2000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_any_text_is_a_number_or_one_line(count):
    draw, values = random.Random(count), 0
    for _ in range(count):
        text = _expression(draw)
        try:
            known = {name: draw.choice((0.0, -1.5, 1e300, 7.0)) for name in parse(text).names}
            assert isinstance(evaluate(text, known), float), text
            values += 1
        except ConfigError as error:
            assert "\n" not in str(error) and len(str(error)) < 1000, text
    assert values > count / 50
