"""How long an effect takes to fall to half of what it was, with an interval from resampling whole clusters.

Knows nothing of what decays. Every draw comes from the seed that is handed in.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from analysis.stats.estimate import NAN, Estimate, Floats, numbers, undefined


def half_life(curves: Sequence[Iterable[float]], level: float = 0.95, resamples: int = 2000, seed: int = 0) -> Estimate:
    """Steps until the mean curve has fallen to half of its first value, linear between steps.

    curves: one row a cluster, one column a step, the first being the effect to begin with. NaN where
    it never halves within the steps; an end of the interval that lies there is NaN too. p: the share of resamples that
    never halve; NaN where the first value is not above zero, so that there is nothing to halve. Rows with a missing
    value are left out.
    """
    table = np.array([numbers(row) for row in curves], dtype=np.float64)
    how = f"halving of the mean curve; bootstrap of {{}} clusters, percentile {level:.0%}, {resamples} resamples, "
    how += f"seed {seed}"
    if not table.size:
        return undefined(how.format(0))
    whole = table[~np.isnan(table).any(axis=1)]
    n, missing = len(whole), len(table) - len(whole)
    how = how.format(n)
    if not n:
        return undefined(how, 0, missing)
    value = _halving(whole.mean(axis=0)[None])[0]
    if np.isnan(value):
        return undefined(how, n, missing)
    if n == 1:
        return Estimate(_finite(value), NAN, NAN, n, how, missing, float(np.isinf(value)))
    drawn = np.random.default_rng(seed).integers(0, n, (resamples, n))
    found = _halving(whole[drawn].mean(axis=1))
    found[np.isnan(found)] = np.inf  # no effect to begin with is none that halves
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2], method="inverted_cdf")
    return Estimate(_finite(value), _finite(low), _finite(high), n, how, missing, float(np.isinf(found).mean()))


def _halving(curves: Floats) -> Floats:
    """Of each row the first step, between steps too, at half of its first value; infinite if never, NaN if <= 0."""
    found = np.full(len(curves), np.inf)
    half = curves[:, 0] / 2
    for step in range(curves.shape[1] - 1):
        before, after = curves[:, step], curves[:, step + 1]
        falls = np.isinf(found) & (before > half) & (after <= half)
        with np.errstate(divide="ignore", invalid="ignore"):
            found = np.where(falls, step + (before - half) / (before - after), found)
    return np.where(curves[:, 0] > 0, found, NAN)


def _finite(value: float) -> float:
    return float(value) if np.isfinite(value) else NAN
