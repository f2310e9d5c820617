"""What a run's id leaves out: options at their first default, so that a new option changes no id and a changed default does."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from replica.config.schema import Train
from replica.plan import defaults


class Options(BaseModel):
    """Options of which one had another default at first, and one is new."""

    changed: int = 2
    new: int = 5
    needed: str


@pytest.fixture(autouse=True)
def first(monkeypatch):
    """The record from before."""
    monkeypatch.setattr(defaults, "recorded", lambda: {"options": {"changed": 1}})


@pytest.mark.parametrize(
    ("options", "specified"),
    [
        ({}, {"changed": 2}),
        ({"changed": 1}, {}),
        ({"changed": 3, "new": 6}, {"changed": 3, "new": 6}),
        ({"new": 5}, {"changed": 2}),
    ],
)
def test_an_option_is_left_out_at_its_first_default_alone(options, specified):
    assert defaults.specified(Options(needed="x", **options), "options") == {"needed": "x", **specified}
    assert defaults.specified(Options(needed="x", changed=2), "unknown") == {"needed": "x"}


def test_every_option_is_recorded(monkeypatch):
    monkeypatch.undo()
    assert defaults.record() == defaults.recorded(), "run `make schema`, which records new options"
    assert defaults.specified(Train(steps=3), "train") == {"steps": 3}
