"""Shares of events pooled over clusters, and what follows what inside them; a cluster is nearly always a rollout.

Knows nothing of what the events mean. Rollouts with many events weigh more than others: that is what pooled means.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats as scipy_stats

from analysis.stats.estimate import NAN, Estimate, Floats, numbers, undefined
from analysis.stats.proportions import benjamini_hochberg
from analysis.stats.resampling import TOLERANCE

CHUNK = 1000
"""Shuffles held in memory at once."""


def pooled_share(
    hits: Iterable[Any], totals: Iterable[Any], level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Estimate:
    """sum(hits) / sum(totals), with a percentile interval from resampling whole clusters; one pair per cluster.

    n: clusters with a total above 0; a pair with a missing half is missing. Raises ValueError if a total is negative.
    """
    h, t, missing = _pairs(hits, totals)
    how = f"pooled share; bootstrap of {len(h)} clusters, percentile {level:.0%}, {resamples} resamples, seed {seed}"
    if len(h) == 0:
        return undefined(how, 0, missing)
    value = float(h.sum() / t.sum())
    if len(h) == 1:
        return Estimate(value, NAN, NAN, 1, how, missing)
    drawn = np.random.default_rng(seed).integers(0, len(h), (resamples, len(h)))
    low, high = np.quantile(h[drawn].sum(axis=1) / t[drawn].sum(axis=1), [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, float(low), float(high), len(h), how, missing)


def pooled_difference(
    hits: Iterable[Any],
    totals: Iterable[Any],
    groups: Iterable[Any],
    first: Any,
    resamples: int = 20_000,
    seed: int = 0,
) -> Estimate:
    """Pooled share of group `first` minus that of the other, and its p-value from shuffling groups over clusters.

    Two-sided; p counts the observed arrangement too (Phipson & Smyth 2010), so its floor is 1 / (resamples + 1).
    Clusters without events stay in the shuffle: they hold a group. Raises ValueError unless there are two groups.
    """
    h, t = numbers(hits), numbers(totals)
    label = np.array([g == first for g in groups], dtype=bool)
    if len(h) != len(t) or len(h) != len(label):
        raise ValueError(f"{len(h)} hits, {len(t)} totals and {len(label)} groups")
    there = ~(np.isnan(h) | np.isnan(t))
    h, t, label = h[there], t[there], label[there]
    missing = int((~there).sum())
    how = f"permutation of whole clusters, two-sided, difference of pooled shares; {resamples} shuffles, seed {seed}"
    if not t[label].sum() or not t[~label].sum():
        return undefined(how, len(h), missing)

    def difference(inside: NDArray[np.bool_]) -> Floats:
        ours, all_ours = inside @ h, inside @ t
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(ours / all_ours - (h.sum() - ours) / (t.sum() - all_ours), dtype=np.float64)

    value = float(difference(label[None])[0])
    rng, extreme = np.random.default_rng(seed), 0
    for at in range(0, resamples, CHUNK):
        null = difference(rng.permuted(np.tile(label, (min(CHUNK, resamples - at), 1)), axis=1))
        extreme += int((~(np.abs(null) < abs(value) * (1 - TOLERANCE) - 1e-15)).sum())  # an undefined one counts too
    return Estimate(value, NAN, NAN, len(h), how, missing, (extreme + 1) / (resamples + 1))


def fold(
    values: Iterable[Any],
    totals: Iterable[Any],
    other_values: Iterable[Any],
    other_totals: Iterable[Any],
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """How many times the other group's pooled ratio the first one's is; clusters resampled within each group.

    One pair of value and total per cluster. Undefined if the other ratio is 0; a resample in which it is counts as
    infinite, so the upper end can be inf. n: clusters of both groups.
    """
    h1, t1, missing1 = _pairs(values, totals)
    h2, t2, missing2 = _pairs(other_values, other_totals)
    n, missing = len(h1) + len(h2), missing1 + missing2
    how = f"ratio of pooled ratios; bootstrap within groups, percentile {level:.0%}, {resamples} resamples, seed {seed}"
    if not len(h1) or not len(h2) or not h2.sum():
        return undefined(how, n, missing)
    value = float(h1.sum() / t1.sum() / (h2.sum() / t2.sum()))
    if min(len(h1), len(h2)) == 1:
        return Estimate(value, NAN, NAN, n, how, missing)
    rng = np.random.default_rng(seed)
    one, two = (rng.integers(0, len(h), (resamples, len(h))) for h in (h1, h2))
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = (h1[one].sum(axis=1) / t1[one].sum(axis=1)) / (h2[two].sum(axis=1) / t2[two].sum(axis=1))
    drawn = np.where(np.isnan(drawn), np.inf, drawn)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], method="inverted_cdf")
    return Estimate(value, float(low), float(high), n, how, missing)


def followers(
    values: Iterable[Any],
    clusters: Iterable[Any],
    at_least: int = 3,
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """What follows what more often than by chance? One row per pair of neighbours seen `at_least` times.

    values in their order, clusters contiguous; a missing value is a neighbour of nothing. Columns: before, after, n,
    departures (n of `before`), share (of `after` among arrivals), lift = n / (departures x share); p and q: one-sided
    binomial and Benjamini-Hochberg over the rows, which takes every neighbour as independent; p_within and q_within:
    the same count against shuffles of the order inside each cluster, which keeps how often each cluster has each
    value. Both sets of p-values are of pairs that were picked for being frequent in the same data: with at_least
    above 1 they are descriptive.
    """
    code, kinds = pd.factorize(np.asarray(list(values), dtype=object))
    cluster = pd.factorize(np.asarray(list(clusters), dtype=object))[0]
    columns = ["before", "after", "n", "departures", "share", "lift", "p", "q", "p_within", "q_within"]
    if (np.diff(cluster) < 0).any():
        raise ValueError("the values of one cluster must stand together")
    inside, k = cluster[:-1] == cluster[1:], len(kinds)

    def neighbours(order: NDArray[np.intp]) -> NDArray[np.intp]:
        a, b = order[:-1], order[1:]
        both = inside & (a >= 0) & (b >= 0)
        return np.bincount(a[both] * k + b[both], minlength=k * k)

    count = neighbours(code)
    if not count.any():
        return pd.DataFrame(columns=columns)
    departures, arrivals = count.reshape(k, k).sum(axis=1), count.reshape(k, k).sum(axis=0)
    tested = np.flatnonzero(count >= at_least)
    before, after, n = tested // k, tested % k, count[tested]
    share = arrivals[after] / arrivals.sum()
    p = scipy_stats.binom.sf(n - 1, departures[before], share)
    rng, extreme = np.random.default_rng(seed), np.zeros(len(tested))
    for _ in range(resamples):
        extreme += neighbours(code[np.lexsort((rng.random(len(code)), cluster))])[tested] >= n
    p_within = (extreme + 1) / (resamples + 1)
    made = pd.DataFrame(
        {
            "before": kinds[before],
            "after": kinds[after],
            "n": n,
            "departures": departures[before],
            "share": share,
            "lift": n / (departures[before] * share),
            "p": p,
            "q": benjamini_hochberg(p),
            "p_within": p_within,
            "q_within": benjamini_hochberg(p_within),
        }
    )
    return made.sort_values(["p", "before", "after"], ignore_index=True)[columns]


def _pairs(hits: Iterable[Any], totals: Iterable[Any]) -> tuple[Floats, Floats, int]:
    h, t = numbers(hits), numbers(totals)
    if len(h) != len(t):
        raise ValueError(f"{len(h)} hits but {len(t)} totals")
    if (t < 0).any():
        raise ValueError("a total is negative")
    there = ~(np.isnan(h) | np.isnan(t))
    kept = there & (t > 0)
    return h[kept], t[kept], int((~there).sum())
