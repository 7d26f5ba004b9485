"""Proportions of rollouts: their intervals, their differences, their tests, and many tests at once.

Knows no clusters: one 0, 1 or missing per rollout.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from scipy import stats as scipy_stats
from scipy.stats import contingency

from analysis.stats.estimate import NAN, Estimate, Floats, binary, numbers, undefined


def wilson(values: Iterable[Any], level: float = 0.95) -> Estimate:
    """Wilson's score interval, no continuity correction (Wilson 1927; Newcombe 1998a, method 3)."""
    k, n, missing = binary(values)
    how = f"Wilson {level:.0%}"
    if n == 0:
        return undefined(how, 0, missing)
    low, high = _wilson_bounds(k, n, level)
    return Estimate(k / n, low, high, n, how, missing)


def clopper_pearson(values: Iterable[Any], level: float = 0.95) -> Estimate:
    """The exact interval from two one-sided binomial tests (Clopper & Pearson 1934); never covers too little."""
    k, n, missing = binary(values)
    how = f"Clopper-Pearson {level:.0%}"
    if n == 0:
        return undefined(how, 0, missing)
    interval = scipy_stats.binomtest(k, n).proportion_ci(level, method="exact")
    return Estimate(k / n, float(interval.low), float(interval.high), n, how, missing)


def newcombe(first: Iterable[Any], second: Iterable[Any], level: float = 0.95) -> Estimate:
    """First rate minus second rate, with Newcombe's hybrid score interval (1998b, method 10). n: both groups."""
    k1, n1, missing1 = binary(first)
    k2, n2, missing2 = binary(second)
    how = f"Newcombe hybrid score {level:.0%}"
    if n1 == 0 or n2 == 0:
        return undefined(how, n1 + n2, missing1 + missing2)
    p1, p2 = k1 / n1, k2 / n2
    (low1, high1), (low2, high2) = _wilson_bounds(k1, n1, level), _wilson_bounds(k2, n2, level)
    low = p1 - p2 - float(np.hypot(p1 - low1, high2 - p2))
    high = p1 - p2 + float(np.hypot(high1 - p1, p2 - low2))
    return Estimate(p1 - p2, low, high, n1 + n2, how, missing1 + missing2)


def fisher(first: Iterable[Any], second: Iterable[Any], level: float = 0.95) -> Estimate:
    """Fisher's exact test of two rates, two-sided. value: the conditional odds ratio with its exact interval (as R)."""
    k1, n1, missing1 = binary(first)
    k2, n2, missing2 = binary(second)
    how = f"Fisher exact, two-sided; conditional odds ratio, exact {level:.0%}"
    if n1 == 0 or n2 == 0:
        return undefined(how, n1 + n2, missing1 + missing2)
    table = np.array([[k1, n1 - k1], [k2, n2 - k2]])
    p = float(scipy_stats.fisher_exact(table).pvalue)
    if k1 + k2 in (0, n1 + n2):
        return Estimate(NAN, NAN, NAN, n1 + n2, how, missing1 + missing2, p)
    ratio = contingency.odds_ratio(table, kind="conditional")
    interval = ratio.confidence_interval(level)
    return Estimate(
        float(ratio.statistic), float(interval.low), float(interval.high), n1 + n2, how, missing1 + missing2, p
    )


def exact_binomial(values: Iterable[Any], rate: float, level: float = 0.95) -> Estimate:
    """Exact two-sided binomial test against `rate`, with the Clopper-Pearson interval."""
    estimate = clopper_pearson(values, level)
    if estimate.n == 0:
        return estimate
    p = float(scipy_stats.binomtest(round(estimate.value * estimate.n), estimate.n, rate).pvalue)
    how = f"exact binomial against {rate:g}, two-sided; {estimate.how}"
    return Estimate(estimate.value, estimate.low, estimate.high, estimate.n, how, estimate.missing, p)


def benjamini_hochberg(p_values: Iterable[Any]) -> Floats:
    """Adjusted p-values (Benjamini & Hochberg 1995), in the order given. A missing p stays NaN and is not counted."""
    p = numbers(p_values)
    there = ~np.isnan(p)
    adjusted = np.full(len(p), np.nan)
    if there.any():
        adjusted[there] = scipy_stats.false_discovery_control(p[there], method="bh")
    return adjusted


def _wilson_bounds(k: int, n: int, level: float) -> tuple[float, float]:
    interval = scipy_stats.binomtest(k, n).proportion_ci(level, method="wilson")
    return float(interval.low), float(interval.high)
