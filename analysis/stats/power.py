"""What a design could have seen: the power of a comparison of two rates, and the smallest rate it can tell apart.

Knows no data: sizes and a base rate in.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.stats import binom, hypergeom, norm

from analysis.stats.estimate import NAN

EXACT = 200
"""Rollouts of one group up to which the power of Fisher's test is counted out."""
MOST = 10_000
"""Rollouts of one group beyond which a design is called out of reach."""


@dataclass(frozen=True)
class Needed:
    """A number of rollouts in each of two groups, and by which test and power."""

    rollouts: int
    how: str


@dataclass(frozen=True)
class Detectable:
    """The rates nearest to `base` that a second group would show with this power; NaN where none exists."""

    base: float
    lower: float
    higher: float
    n_first: int
    n_second: int
    how: str


def power_of_rates(first: float, second: float, n_first: float, n_second: float, alpha: float = 0.05) -> float:
    """The power of a two-sided test of two rates, normal approximation; equals R's power.prop.test for equal n."""
    pooled = (n_first * first + n_second * second) / (n_first + n_second)
    under_null = np.sqrt(pooled * (1 - pooled) * (1 / n_first + 1 / n_second))
    under_truth = np.sqrt(first * (1 - first) / n_first + second * (1 - second) / n_second)
    gap = abs(first - second) - norm.ppf(1 - alpha / 2) * under_null
    if under_truth == 0:
        return float(gap > 0)
    return float(norm.cdf(gap / under_truth))


def fisher_power(first: float, second: float, n: int, alpha: float = 0.05) -> float:
    """The exact power of Fisher's two-sided test with n rollouts in each group: all (n + 1)^2 tables, weighted."""
    counts = np.arange(n + 1)
    weight_first, weight_second = binom.pmf(counts, n, first), binom.pmf(counts, n, second)
    power = 0.0
    for total in range(2 * n + 1):
        a = np.arange(max(0, total - n), min(n, total) + 1)
        chance = hypergeom.pmf(a, 2 * n, n, total)
        order = np.sort(chance)
        upto = np.searchsorted(order, chance * (1 + 1e-7), side="right")
        rejected = a[np.concatenate([[0.0], np.cumsum(order)])[upto] <= alpha]
        power += float((weight_first[rejected] * weight_second[total - rejected]).sum())
    return power


def rollouts_needed(first: float, second: float, power: float = 0.8, alpha: float = 0.05) -> Needed:
    """How many rollouts in each of two groups tell these rates apart with this power by Fisher's test.

    Exact up to EXACT rollouts a group, by the normal approximation beyond; `how` says which. Exact power saws a little
    with n: this is the first n that has it, counted up from a little under the approximation.
    Raises ValueError on rates that are equal or outside [0, 1], and where more than MOST would be needed.
    """
    if not (0 <= first <= 1 and 0 <= second <= 1) or first == second:
        raise ValueError(f"two different rates within [0, 1] are needed; got {first:g} and {second:g}")
    if not 0 < alpha < power < 1:
        raise ValueError(f"needs 0 < alpha < power < 1; got alpha {alpha:g} and power {power:g}")
    if power_of_rates(first, second, MOST, MOST, alpha) < power:
        raise ValueError(f"more than {MOST:,} rollouts in each group would be needed; look for a larger difference")
    high = next(n for n in range(2, MOST + 1) if power_of_rates(first, second, n, n, alpha) >= power)
    asked = f"two-sided alpha {alpha:g}, power {power:.0%}"
    if high > EXACT:
        return Needed(high, f"{asked}, normal approximation")
    n = max(2, high - 3)  # Fisher's test needs at least about as many as the approximation says
    while fisher_power(first, second, n, alpha) < power:
        n += 1
    return Needed(n, f"{asked}, Fisher's exact test")


def minimum_detectable_rate(
    base: float, n_first: int, n_second: int, power: float = 0.8, alpha: float = 0.05
) -> Detectable:
    """The nearest rates above and below `base` that n_second rollouts would tell from n_first at `base`."""
    how = f"two-sided alpha {alpha:g}, power {power:.0%}, normal approximation"
    if not 0 <= base <= 1 or min(n_first, n_second) < 1:
        raise ValueError(
            f"needs a base rate within [0, 1] and at least one rollout each; got {base}, {n_first}, {n_second}"
        )

    def short(rate: float) -> float:
        return power_of_rates(base, rate, n_first, n_second, alpha) - power

    higher = float(brentq(short, base, 1.0)) if base < 1 and short(1.0) > 0 else NAN
    lower = float(brentq(short, 0.0, base)) if base > 0 and short(0.0) > 0 else NAN
    return Detectable(base, lower, higher, n_first, n_second, how)
