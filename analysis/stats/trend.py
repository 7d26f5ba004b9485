"""Means over rollouts, and rank correlation.

Knows no order of time: pairs in, one number out.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from scipy import stats as scipy_stats

from analysis.stats.estimate import NAN, Estimate, numbers, present, undefined


def mean(values: Iterable[Any], level: float = 0.95, floor: float = -np.inf, ceiling: float = np.inf) -> Estimate:
    """The mean of one number per rollout, with Student's interval. One rollout, or equal ones, have no interval.

    floor, ceiling: what the numbers cannot pass; the interval is cut there, which costs no coverage.
    """
    x, missing = present(values)
    how = f"mean, Student t {level:.0%}"
    if len(x) == 0:
        return undefined(how, 0, missing)
    if len(set(x)) == 1:
        return Estimate(float(x[0]), NAN, NAN, len(x), how, missing)
    half = float(scipy_stats.t.ppf((1 + level) / 2, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x)))
    centre = float(x.mean())
    return Estimate(centre, max(centre - half, floor), min(centre + half, ceiling), len(x), how, missing)


def spearman(first: Iterable[Any], second: Iterable[Any], level: float = 0.95) -> Estimate:
    """Spearman's rank correlation with its p-value, and the interval of Bonett & Wright (2000) on Fisher's z."""
    x, y = numbers(first), numbers(second)
    if len(x) != len(y):
        raise ValueError(f"{len(x)} values but {len(y)} partners")
    there = ~(np.isnan(x) | np.isnan(y))
    n, missing = int(there.sum()), int((~there).sum())
    how = f"Spearman; Bonett-Wright {level:.0%}; p from Student t"
    if n < 3 or len(set(x[there])) < 2 or len(set(y[there])) < 2:
        return undefined(how, n, missing)
    result = scipy_stats.spearmanr(x[there], y[there])
    rho, p = float(result.statistic), float(result.pvalue)
    if n < 4 or abs(rho) >= 1:
        return Estimate(rho, NAN, NAN, n, how, missing, p)
    half = float(scipy_stats.norm.ppf((1 + level) / 2)) * np.sqrt((1 + rho**2 / 2) / (n - 3))
    low, high = np.tanh(np.arctanh(rho) + np.array([-half, half]))
    return Estimate(rho, float(low), float(high), n, how, missing, p)
