"""How many times one pooled ratio is another: by hand, its symmetries, and how often its interval covers the truth.

Knows no rollout.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from analysis.stats import fold


def test_by_hand() -> None:
    found = fold([1, 2, np.nan], [2, 4, 9], [1, 1], [8, 4])
    assert found.value == pytest.approx((3 / 6) / (2 / 12))
    assert (found.n, found.missing) == (4, 1)
    assert found.low <= found.value <= found.high


def test_the_other_way_round_is_the_inverse() -> None:
    a, b = ([1, 5, 2, 4], [3, 9, 4, 8]), ([2, 2, 1], [9, 7, 8])
    assert fold(*a, *b).value * fold(*b, *a).value == pytest.approx(1)
    assert fold(*a, *a).value == 1


def test_nothing_to_divide_by_is_undefined_and_one_rollout_has_no_interval() -> None:
    assert math.isnan(fold([1], [2], [0, 0], [3, 4]).value)
    assert math.isnan(fold([], [], [1], [2]).value)
    one = fold([1], [2], [1, 1], [2, 4])
    assert one.value == pytest.approx(1.5)
    assert math.isnan(one.low)


def test_a_resample_without_events_is_infinitely_many_times_as_much() -> None:
    found = fold([3, 4, 5], [5, 5, 5], [1, 0, 0], [5, 5, 5])
    assert math.isinf(found.high)
    assert 0 < found.low < found.value


def test_the_interval_covers_about_as_often_as_it_says() -> None:
    rng, hits, draws = np.random.default_rng(1), 0, 200
    for i in range(draws):
        totals, others = rng.integers(5, 30, 40), rng.integers(5, 30, 40)
        rates, other_rates = rng.beta(6, 4, 40), rng.beta(3, 7, 40)  # rollouts differ: means 0.6 and 0.3
        found = fold(
            rng.binomial(totals, rates), totals, rng.binomial(others, other_rates), others, resamples=400, seed=i
        )
        hits += found.low <= 2.0 <= found.high
    assert 0.89 <= hits / draws <= 0.99
