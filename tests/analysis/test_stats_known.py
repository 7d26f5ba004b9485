"""Every statistic against a published answer; the source is named at each.

Knows no data of ours.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, fisher_exact

from analysis import stats
from analysis.stats import outcomes

NAN = float("nan")


@pytest.mark.parametrize(
    ("k", "n", "score", "exact"),
    [
        (81, 263, (0.2553, 0.3662), (0.2527, 0.3676)),
        (15, 148, (0.0624, 0.1605), (0.0578, 0.1617)),
        (0, 20, (0.0000, 0.1611), (0.0000, 0.1684)),
        (1, 29, (0.0061, 0.1718), (0.0009, 0.1776)),
    ],
)
def test_wilson_and_clopper_pearson_newcombe_1998a_table_1(k, n, score, exact):
    for estimate, bounds in ((stats.wilson(outcomes(k, n)), score), (stats.clopper_pearson(outcomes(k, n)), exact)):
        assert estimate.value == k / n and estimate.n == n
        assert (estimate.low, estimate.high) == pytest.approx(bounds, abs=6e-5)


@pytest.mark.parametrize(
    ("k1", "n1", "k2", "n2", "low", "high"),
    [
        (56, 70, 48, 80, 0.0524, 0.3339),
        (9, 10, 3, 10, 0.1705, 0.8090),
        (5, 56, 0, 29, -0.0381, 0.1926),
        (10, 10, 0, 10, 0.6075, 1.0000),
    ],
)
def test_newcombe_difference_newcombe_1998b_table_2_method_10(k1, n1, k2, n2, low, high):
    estimate = stats.newcombe(outcomes(k1, n1), outcomes(k2, n2))
    assert estimate.value == pytest.approx(k1 / n1 - k2 / n2)
    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=6e-5)


def test_fisher_convictions_of_twins_r_fisher_test():
    estimate = stats.fisher(outcomes(2, 17), outcomes(10, 13))
    assert estimate.p == pytest.approx(0.0005367, abs=5e-8)
    assert estimate.value == pytest.approx(0.04693661, rel=1e-5)
    # R's root finder stops early at the lower end: 0.0033258 against 0.0033172
    assert (estimate.low, estimate.high) == pytest.approx((0.003325764, 0.363182271), rel=3e-3)


def test_fisher_tea_tasting_r_fisher_test():
    estimate = stats.fisher(outcomes(3, 4), outcomes(1, 4))
    assert estimate.p == pytest.approx(0.4857, abs=5e-5) and estimate.value == pytest.approx(6.408309, rel=1e-5)


def test_fisher_of_nothing_happening_is_p_one_without_an_odds_ratio():
    estimate = stats.fisher(outcomes(0, 9), outcomes(0, 9))
    assert estimate.p == 1 and np.isnan(estimate.value)


def test_exact_binomial_mendel_r_binom_test():
    estimate = stats.exact_binomial(outcomes(682, 925), 0.75)
    assert estimate.p == pytest.approx(0.3825, abs=5e-5)
    assert (estimate.low, estimate.high) == pytest.approx((0.7076683, 0.7654066), abs=5e-7)


def test_benjamini_hochberg_1995_section_4():
    p = [
        0.0001,
        0.0004,
        0.0019,
        0.0095,
        0.0201,
        0.0278,
        0.0298,
        0.0344,
        0.0459,
        0.3240,
        0.4262,
        0.5719,
        0.6528,
        0.7590,
        1,
    ]
    adjusted = stats.benjamini_hochberg(p)
    assert (adjusted < 0.05).sum() == 4
    assert adjusted[:4] == pytest.approx([0.0015, 0.003, 0.0095, 0.035625])
    with_hole = stats.benjamini_hochberg([0.01, NAN, 0.02])
    assert with_hole[[0, 2]] == pytest.approx([0.02, 0.02]) and np.isnan(with_hole[1])


AML_KEPT = ([9, 13, 13, 18, 23, 28, 31, 34, 45, 48, 161], [1, 1, 0, 1, 1, 0, 1, 1, 0, 1, 0])
AML_NOT = ([5, 5, 8, 8, 12, 16, 23, 27, 30, 33, 43, 45], [1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1])


def test_kaplan_meier_leukaemia_r_survival_aml():
    curve = stats.kaplan_meier(*AML_KEPT)
    expected = {9: 0.909, 13: 0.818, 18: 0.716, 23: 0.614, 31: 0.491, 34: 0.368, 48: 0.184, 161: 0.184}
    assert {t: round(curve.at(t).value, 3) for t in expected} == expected
    assert curve.median == 31 and stats.kaplan_meier(*AML_NOT).median == 23
    # survfit(..., conf.type = "log-log") at 31: 0.1673 to 0.753
    assert (curve.at(31).low, curve.at(31).high) == pytest.approx((0.167, 0.753), abs=1e-3)
    assert curve.at(0).value == 1 and np.isnan(stats.kaplan_meier([3, 4], [0, 0]).median)


def test_logrank_leukaemia_r_survdiff():
    result = stats.logrank(*AML_KEPT, *AML_NOT)
    assert result.value**2 == pytest.approx(3.396, abs=5e-3) and result.p == pytest.approx(0.0653, abs=2e-4)


def test_cohen_kappa_agresti_pathologists():
    table = [[22, 2, 2, 0], [5, 7, 14, 0], [0, 2, 36, 0], [0, 1, 17, 10]]
    first = [i for i, row in enumerate(table) for j, n in enumerate(row) for _ in range(n)]
    second = [j for i, row in enumerate(table) for j, n in enumerate(row) for _ in range(n)]
    estimate = stats.cohen_kappa(first, second)
    assert estimate.value == pytest.approx(0.493, abs=5e-4)
    assert (estimate.high - estimate.low) / (2 * 1.959964) == pytest.approx(0.057, abs=5e-4)
    holes = stats.cohen_kappa([*first, None], [*second, 1])
    assert holes.value == estimate.value and holes.missing == 1
    assert np.isnan(stats.cohen_kappa([1, 1], [1, 1]).value)


def test_krippendorff_alpha_2011_example_c():
    ratings = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
        [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
    ]
    for scale, alpha in (("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)):
        estimate = stats.krippendorff_alpha(ratings, scale, resamples=200)
        assert estimate.value == pytest.approx(alpha, abs=5e-4)
        assert (estimate.n, estimate.missing) == (11, 1) and estimate.low < alpha < estimate.high


def test_power_of_rates_r_power_prop_test():
    assert stats.power_of_rates(0.50, 0.75, 50, 50) == pytest.approx(0.7401659, abs=1e-5)
    assert stats.power_of_rates(0.50, 0.75, 76.7, 76.7) == pytest.approx(0.90, abs=1e-3)


def test_minimum_detectable_rate_inverts_the_power():
    found = stats.minimum_detectable_rate(0.2, 40, 60)
    assert stats.power_of_rates(0.2, found.higher, 40, 60) == pytest.approx(0.8, abs=1e-6)
    assert stats.power_of_rates(0.2, found.lower, 40, 60) == pytest.approx(0.8, abs=1e-6)
    # from 5% of 20 rollouts, even a true rate of 0 would be missed more than one time in five
    assert np.isnan(stats.minimum_detectable_rate(0.05, 20, 20).lower)


def test_mean_r_t_test_sleep():
    estimate = stats.mean([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0, None])
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((0.75, -0.5297804, 2.0297804), abs=1e-6)
    assert (estimate.n, estimate.missing) == (10, 1)


def test_spearman_iq_and_television_wikipedia():
    iq = [106, 86, 100, 101, 99, 103, 97, 113, 112, 110, NAN]
    hours = [7, 0, 27, 50, 28, 29, 20, 12, 6, 17, 3]
    estimate = stats.spearman(iq, hours)
    assert estimate.value == pytest.approx(-29 / 165) and estimate.p == pytest.approx(0.6272, abs=5e-5)
    assert (estimate.n, estimate.missing) == (10, 1)


def test_permutation_between_all_twenty_arrangements():
    estimate = stats.permutation_between([1, 2, 3, 4, 5, 6], list("aaabbb"), range(6))
    assert estimate.value == -3 and estimate.p == pytest.approx(2 / 20) and "all 20" in estimate.how


def test_permutation_within_darwins_maize_fisher_1935():
    difference = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]
    values = [v for d in difference for v in (d, 0)]
    pairs = [pair for pair in range(15) for _ in range(2)]
    estimate = stats.permutation_within(values, ["cross", "self"] * 15, pairs, resamples=4000)
    assert estimate.value == pytest.approx(np.mean(difference))
    assert estimate.p == pytest.approx(1726 / 32768, abs=0.012)


def test_a_repeated_value_is_no_new_rollout():
    values, clusters = [0, 1, 1, 0, 1], [1, 2, 3, 4, 5]
    once = stats.cluster_bootstrap(values, clusters)
    often = stats.cluster_bootstrap(np.repeat(values, 20), np.repeat(clusters, 20))
    assert (once.value, once.low, once.high, once.n) == (often.value, often.low, often.high, often.n)
    few = stats.permutation_between(np.repeat([0, 0, 1, 1.0], 50), np.repeat(list("aabb"), 50), np.repeat(range(4), 50))
    assert few.n == 4 and few.p == pytest.approx(2 / 6)  # not a p-value of 200 independent turns


def test_missing_lowers_n_and_is_reported_and_never_counted():
    holes = pd.Series([True, None, False, pd.NA, True], dtype="boolean")
    estimate = stats.wilson(holes)
    assert (estimate.value, estimate.n, estimate.missing) == (2 / 3, 3, 2)
    assert estimate == stats.wilson([1, NAN, 0, None, 1])
    for nothing in (stats.wilson([NAN]), stats.newcombe([1], [NAN]), stats.fisher([], [1]), stats.mean([])):
        assert np.isnan(nothing.value) and np.isnan(nothing.low)
    assert stats.cluster_bootstrap([1, NAN, 0], [1, 1, 2]).missing == 1
    assert stats.kaplan_meier([3, NAN], [1, 1]).missing == 1
    with pytest.raises(ValueError, match="0, 1 or missing"):
        stats.wilson([0.5])
    with pytest.raises(ValueError, match="both groups"):
        stats.permutation_between([1, 2, 3], ["a", "b", "b"], [1, 1, 2])


@given(st.floats(0.05, 0.95), st.floats(0.05, 0.95), st.integers(2, 12))
@settings(max_examples=15, deadline=None)
def test_fisher_power_is_the_weight_of_the_tables_that_fisher_rejects(first, second, n):
    tables = [(a, b) for a in range(n + 1) for b in range(n + 1)]
    rejected = [(a, b) for a, b in tables if fisher_exact([[a, n - a], [b, n - b]]).pvalue <= 0.05]
    naive = sum(binom.pmf(a, n, first) * binom.pmf(b, n, second) for a, b in rejected)
    assert stats.fisher_power(first, second, n) == pytest.approx(naive, abs=1e-9)


def test_rollouts_needed_reach_the_power_and_one_fewer_does_not():
    needed = stats.rollouts_needed(0.5, 0.1)
    assert stats.fisher_power(0.5, 0.1, needed.rollouts) >= 0.8 > stats.fisher_power(0.5, 0.1, needed.rollouts - 1)
    assert "Fisher" in needed.how
    many = stats.rollouts_needed(0.5, 0.4)
    assert many.rollouts == 388  # power.prop.test(p1 = .5, p2 = .4, power = .8) in R gives n = 387.3
    assert "normal" in many.how
    with pytest.raises(ValueError, match="different rates"):
        stats.rollouts_needed(0.5, 0.5)
    with pytest.raises(ValueError, match="10,000"):
        stats.rollouts_needed(0.5, 0.499)
