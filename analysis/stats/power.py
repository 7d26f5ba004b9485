"""What a design could have seen: the power of a comparison of two rates, and the smallest rate it can tell apart.

Knows no data: sizes and a base rate in.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm

from analysis.stats.estimate import NAN


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
