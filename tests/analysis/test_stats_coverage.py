"""Does a 95% interval cover 95 times in 100? Exactly where the binomial allows it, else simulated from a fixed seed.

Knows no published numbers.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from analysis import stats
from analysis.stats import outcomes


@pytest.mark.parametrize("n", [10, 50])
def test_wilson_and_clopper_pearson_cover(n):
    rates = np.linspace(0.02, 0.98, 49)
    for method, floor, mean_low, mean_high in (
        (stats.wilson, 0.83, 0.94, 0.96),
        (stats.clopper_pearson, 0.95, 0.95, 0.99),
    ):
        bounds = [method(outcomes(k, n)) for k in range(n + 1)]
        inside = np.array([[e.low <= rate <= e.high for e in bounds] for rate in rates])
        coverage = (inside * binom.pmf(np.arange(n + 1), n, rates[:, None])).sum(axis=1)
        assert coverage.min() >= floor
        assert mean_low <= coverage.mean() <= mean_high


@pytest.mark.parametrize(("p1", "p2", "n1", "n2"), [(0.3, 0.3, 15, 15), (0.9, 0.5, 12, 20), (0.1, 0.4, 20, 20)])
def test_newcombe_covers(p1, p2, n1, n2):
    coverage = 0.0
    for a in range(n1 + 1):
        for b in range(n2 + 1):
            e = stats.newcombe(outcomes(a, n1), outcomes(b, n2))
            coverage += binom.pmf(a, n1, p1) * binom.pmf(b, n2, p2) * (e.low <= p1 - p2 <= e.high)
    assert 0.93 <= coverage <= 0.985


def test_the_odds_ratio_interval_covers():
    p1, p2, n, coverage = 0.3, 0.6, 10, 0.0
    truth = p1 / (1 - p1) / (p2 / (1 - p2))
    for a in range(n + 1):
        for b in range(n + 1):
            weight = binom.pmf(a, n, p1) * binom.pmf(b, n, p2)
            e = stats.fisher(outcomes(a, n), outcomes(b, n)) if weight > 1e-4 else None
            coverage += weight * (e is None or np.isnan(e.low) or e.low <= truth <= e.high)
    assert coverage >= 0.95


def test_cluster_bootstrap_covers_where_ignoring_clusters_does_not():
    rng = np.random.default_rng(1)
    clustered = naive = 0
    clusters = np.repeat(np.arange(40), 8)
    for trial in range(300):
        values = np.repeat(rng.normal(0, 1, 40), 8) + rng.normal(0, 0.5, 320)
        e = stats.cluster_bootstrap(values, clusters, resamples=400, seed=trial)
        clustered += e.low <= 0 <= e.high
        turns = stats.mean(values)
        naive += turns.low <= 0 <= turns.high
    assert 0.91 <= clustered / 300 <= 0.98
    assert naive / 300 < 0.65


def test_mean_and_spearman_cover():
    rng = np.random.default_rng(2)
    means = ranks = 0
    truth = 6 / np.pi * np.arcsin(0.6 / 2)  # Spearman's rho of a bivariate normal with r = 0.6
    for _ in range(600):
        x = rng.normal(0, 1, 25)
        y = 0.6 * x + 0.8 * rng.normal(0, 1, 25)
        e, r = stats.mean(x), stats.spearman(x, y)
        means += e.low <= 0 <= e.high
        ranks += r.low <= truth <= r.high
    assert 0.93 <= means / 600 <= 0.97
    assert 0.92 <= ranks / 600 <= 0.98


def test_kaplan_meier_covers():
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(250):
        event, censoring = rng.exponential(10, 40), rng.exponential(20, 40)
        e = stats.kaplan_meier(np.minimum(event, censoring), event <= censoring).at(6)
        covered += e.low <= np.exp(-0.6) <= e.high
    assert 0.92 <= covered / 250 <= 0.98


def test_kappa_and_alpha_cover():
    rng = np.random.default_rng(4)
    joint = np.array([[0.30, 0.05, 0.05], [0.04, 0.20, 0.06], [0.05, 0.05, 0.20]])
    chance = joint.sum(0) @ joint.sum(1)
    kappa = (np.trace(joint) - chance) / (1 - chance)
    pooled = (joint.sum(0) + joint.sum(1)) / 2
    alpha = 1 - (1 - np.trace(joint)) / (1 - pooled @ pooled)
    kappas = alphas = 0
    for trial in range(250):
        cells = rng.choice(9, 80, p=joint.ravel())
        first, second = cells // 3, cells % 3
        e = stats.cohen_kappa(first, second)
        a = stats.krippendorff_alpha([first.tolist(), second.tolist()], resamples=300, seed=trial)
        kappas += e.low <= kappa <= e.high
        alphas += a.low <= alpha <= a.high
    assert 0.92 <= kappas / 250 <= 0.985
    assert 0.91 <= alphas / 250 <= 0.985


def test_permutation_tests_keep_their_level():
    rng = np.random.default_rng(5)
    between = within = 0
    clusters = np.repeat(np.arange(16), 5)
    for trial in range(200):
        values = np.repeat(rng.normal(0, 2, 16), 5) + rng.normal(0, 1, 80)
        groups = np.where(clusters < 8, "a", "b")
        between += stats.permutation_between(values, groups, clusters, resamples=299, seed=trial).p <= 0.05
        labels = rng.choice(["x", "y"], 80)
        within += stats.permutation_within(values, labels, clusters, resamples=99, seed=trial).p <= 0.05
    assert between / 200 <= 0.09 and within / 200 <= 0.09
