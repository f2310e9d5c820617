"""Intervals and verdicts against arithmetic done by hand, at every boundary."""

from __future__ import annotations

import math

import pytest

from replica.claims import verdicts
from replica.claims.numbers import significant, text
from replica.claims.statistics import aggregate, bootstrap_interval, interval, t_interval
from replica.config.schema import Tolerance

T_TWO_DEGREES = 4.302652729911275  # two-sided 95 % point of Student's t with 2 degrees of freedom, from its table


def test_t_interval_of_three_paired_effects():
    # 2, 3, 4: mean 3, s = 1, half width t / sqrt(3)
    low, high = t_interval([2.0, 3.0, 4.0])
    assert (low, high) == pytest.approx((3 - T_TWO_DEGREES / math.sqrt(3), 3 + T_TWO_DEGREES / math.sqrt(3)), rel=1e-9)


def test_t_interval_of_two_values_uses_one_degree_of_freedom():
    # 0, 2: mean 1, s = sqrt(2), s / sqrt(2) = 1, t(0.975, 1) = tan(0.475 pi) = 12.7062
    assert t_interval([0.0, 2.0]) == pytest.approx((1 - 12.7062047364, 1 + 12.7062047364), rel=1e-9)


def test_no_interval_from_one_value():
    assert t_interval([1.0]) is None and bootstrap_interval([1.0]) is None


def test_equal_values_give_an_interval_of_no_width():
    assert t_interval([0.5, 0.5, 0.5]) == (0.5, 0.5)


def test_bootstrap_of_two_values_spans_them_and_repeats():
    # half of the resamples are mixed, a quarter each all-low and all-high: the 2.5 % and 97.5 % points are the ends
    assert bootstrap_interval([1.0, 3.0], "mean") == (1.0, 3.0)
    assert bootstrap_interval([1.0, 3.0, 9.0], "median") == bootstrap_interval([1.0, 3.0, 9.0], "median")


def test_aggregates():
    values = [1.0, 2.0, 9.0]
    assert [aggregate(values, how) for how in ("mean", "median", "max")] == [4.0, 2.0, 9.0]
    assert interval(values, "max")[1] == 9.0
    with pytest.raises(ValueError):
        aggregate([])


def tolerance(**kind) -> Tolerance:
    return Tolerance(**kind, reason="r")


@pytest.mark.parametrize(
    ("ours", "paper", "kind", "inside"),
    [
        (10.5, 10.0, {"absolute": 0.5}, True),
        (10.51, 10.0, {"absolute": 0.5}, False),
        (
            0.3,
            0.1,
            {"absolute": 0.2},
            True,
        ),  # 0.3 - 0.1 is 0.19999999999999998 or a bit more: on the boundary either way
        (103.0, 100.0, {"relative": 0.03}, True),
        (96.9, 100.0, {"relative": 0.03}, False),
        (-103.0, -100.0, {"relative": 0.03}, True),
        (0.04698, 0.047, {"digits": 3}, True),
        (0.0476, 0.047, {"digits": 3}, False),
    ],
)
def test_tolerance_includes_its_boundary(ours, paper, kind, inside):
    assert verdicts.within(ours, paper, tolerance(**kind)) is inside


@pytest.mark.parametrize(
    ("ours", "direction", "erratum", "verdict"),
    [
        (10.0, "equal", False, "match"),
        (12.0, "equal", False, "worse"),
        (8.0, "equal", False, "worse"),
        (12.0, "higher", False, "better"),
        (8.0, "higher", False, "worse"),
        (12.0, "lower", False, "worse"),
        (8.0, "lower", False, "better"),
        (12.0, "at-least", False, "match"),
        (8.0, "at-least", False, "worse"),
        (8.0, "at-most", False, "match"),
        (12.0, "at-most", False, "worse"),
        (12.0, "equal", True, "paper-inconsistent"),
        (10.5, "equal", True, "match"),
        (12.0, "at-least", True, "match"),
    ],
)
def test_structural_verdicts(ours, direction, erratum, verdict):
    assert verdicts.structural(ours, 10.0, tolerance(absolute=1), direction, erratum) == verdict


def test_full_verdicts_know_noise():
    half = tolerance(absolute=0.5)
    assert verdicts.full(89.0, 90.0, half, "higher", (88.0, 90.0)) == "within-noise"
    assert verdicts.full(89.0, 90.0, half, "higher", (88.5, 89.9)) == "worse"
    assert verdicts.full(91.0, 90.0, half, "higher", (90.0, 92.0)) == "within-noise"
    assert verdicts.full(91.0, 90.0, half, "higher", None) == "better"
    assert verdicts.full(90.4, 90.0, half, "higher", (80.0, 99.0)) == "match"


@pytest.mark.parametrize(
    ("low", "high", "margin", "direction", "verdict"),
    [
        (1.01, 3.0, 1.0, "above", "reproduced"),
        (1.0, 3.0, 1.0, "above", "inconclusive"),
        (-1.0, 1.0, 1.0, "above", "inconclusive"),
        (-1.0, 0.99, 1.0, "above", "contradicted"),
        (-3.0, -1.01, -1.0, "below", "reproduced"),
        (-3.0, -1.0, -1.0, "below", "inconclusive"),
        (-0.99, 2.0, -1.0, "below", "contradicted"),
        (0.0, 0.0, 0.0, "above", "inconclusive"),
        (0.0, 0.0, -1.0, "above", "inconclusive"),  # beyond the margin, but nothing moved
    ],
)
def test_trend_verdicts(low, high, margin, direction, verdict):
    assert verdicts.trend(low, high, margin, direction) == verdict


def test_an_ordering_is_a_difference_against_zero():
    assert verdicts.ordering(0.0, "at-least") == "match"
    assert verdicts.ordering(-0.1, "at-least") == "worse"
    assert verdicts.ordering(-0.1, "higher", (-1.0, 1.0)) == "within-noise"
    assert verdicts.ordering(-0.1, "lower") == "match"


def test_numbers_keep_six_digits_and_all_of_a_whole():
    values = [0.04697731234, 222882048.0, 222882048, 1234567.891, 0.0000901234567, 2128.6789]
    assert [significant(value) for value in values] == [0.0469773, 222882048, 222882048, 1234568, 9.01235e-05, 2128.68]
    assert text(9.01235e-05) == "0.0000901235" and text(None) == "" and text(1004) == "1004"
