"""Bootstrap over clusters, and permutation tests between and within clusters; a cluster is nearly always a rollout.

Knows nothing of what the values mean. Every draw comes from the seed that is handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import combinations, product
from math import comb
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.stats.estimate import NAN, Estimate, Floats, numbers, present, undefined
from analysis.stats.trend import mean

Codes = NDArray[np.intp]
Statistic = Callable[[Floats, Codes, Codes], float]
TOLERANCE = 1e-9
"""Two statistics closer than this, relative to the observed one, are a tie: float sums depend on their order."""


def cluster_bootstrap(
    values: Iterable[Any],
    clusters: Iterable[Any],
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """The mean of all values, with a percentile interval from resampling whole clusters.

    n: clusters with at least one value. Few clusters (under about 20) make the interval too narrow; `how` gives n.
    """
    x, code, count, missing = _clustered(values, clusters)
    how = f"mean; bootstrap of {count} clusters, percentile {level:.0%}, {resamples} resamples, seed {seed}"
    if count == 0:
        return undefined(how, 0, missing)
    value = float(x.mean())
    if count == 1:
        return Estimate(value, NAN, NAN, 1, how, missing)
    sums, sizes = np.bincount(code, x, count), np.bincount(code, minlength=count)
    drawn = np.random.default_rng(seed).integers(0, count, (resamples, count))
    means = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, float(low), float(high), count, how, missing)


def permutation_between(
    values: Iterable[Any],
    groups: Iterable[Any],
    clusters: Iterable[Any],
    resamples: int = 9999,
    seed: int = 0,
) -> Estimate:
    """Do two groups of clusters differ? Groups are shuffled over whole clusters; value: difference of cluster means.

    The group that comes first in the data minus the other. All arrangements are enumerated if they are few enough.
    Raises ValueError unless there are two groups and every cluster lies in one of them.
    """
    labels = pd.factorize(np.asarray(list(groups), dtype=object))[0]
    names = list(clusters)
    x, code, count, missing = _clustered(values, names)
    kept = labels[~np.isnan(numbers(values))] if count else labels
    how = "permutation of whole clusters, two-sided, difference of the means of cluster means"
    if len(set(kept)) != 2:
        if len(set(labels)) == 2:
            return undefined(how, count, missing)
        raise ValueError(f"a permutation between groups needs two groups; found {len(set(labels))}")
    by_cluster = pd.DataFrame({"code": code, "label": kept}).groupby("code")["label"]
    if (by_cluster.nunique() > 1).any():
        raise ValueError("a cluster lies in both groups; use permutation_within")
    means = np.bincount(code, x, count) / np.bincount(code, minlength=count)
    first = by_cluster.first().to_numpy() == 0
    size, total = int(first.sum()), float(means.sum())

    def difference(sums: Floats) -> Floats:
        return sums / size - (total - sums) / (count - size)

    value = float(difference(np.array([means[first].sum()]))[0])
    if comb(count, size) <= resamples:
        chosen = np.array(list(combinations(range(count), size)))
        p = _share(difference(means[chosen].sum(axis=1)), value, 0)
        return Estimate(value, NAN, NAN, count, f"{how}; all {len(chosen)} arrangements", missing, p)
    rng = np.random.default_rng(seed)
    order = rng.permuted(np.tile(means, (resamples, 1)), axis=1)
    p = _share(difference(order[:, :size].sum(axis=1)), value, 1)
    return Estimate(value, NAN, NAN, count, f"{how}; {resamples} shuffles, seed {seed}", missing, p)


def permutation_within(
    values: Iterable[Any],
    groups: Iterable[Any],
    clusters: Iterable[Any],
    statistic: Statistic | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Does a label matter inside clusters? Labels are shuffled within each cluster, never across.

    statistic(values, label codes, cluster codes): default the mean over clusters of (first label's mean - the
    other's), over clusters that hold both; larger in size is more extreme. n: clusters with at least two labels.
    """
    array = numbers(values)
    there = ~np.isnan(array)
    label = pd.factorize(np.asarray(list(groups), dtype=object))[0]
    x, code, count, missing = _clustered(array, clusters)
    label = label[there]
    how = "permutation within clusters, two-sided"
    if statistic is None and len(set(label)) != 2:
        return undefined(f"{how}: needs two labels", count, missing)
    measure = statistic or _mean_difference_within
    informative = int((pd.Series(label).groupby(code).nunique() > 1).sum()) if len(label) else 0
    if informative == 0:
        return undefined(f"{how}: no cluster holds two labels", 0, missing)
    value = measure(x, label, code)
    rng = np.random.default_rng(seed)
    home = np.argsort(code, kind="stable")
    shuffled = np.empty_like(label)
    null = np.empty(resamples)
    for i in range(resamples):
        shuffled[home] = label[np.lexsort((rng.random(len(code)), code))]
        null[i] = measure(x, shuffled, code)
    p = _share(null, value, 1)
    return Estimate(value, NAN, NAN, informative, f"{how}; {resamples} shuffles, seed {seed}", missing, p)


def sign_flips(differences: Iterable[Any], resamples: int = 9999, seed: int = 0) -> Estimate:
    """Is the mean of one difference per rollout 0? Each difference keeps its size and takes either sign.

    All arrangements are enumerated if they are few enough. The interval is Student's, over the differences.
    """
    x, missing = present(differences)
    centre = mean(x)
    how = f"mean of differences, {centre.how}; p by sign flips, two-sided"
    if len(x) == 0:
        return undefined(how, 0, missing)
    if 2 ** len(x) <= resamples:
        signs, own = np.array(list(product((1.0, -1.0), repeat=len(x)))), 0
        how += f"; all {len(signs)} arrangements"
    else:
        signs, own = np.random.default_rng(seed).choice((1.0, -1.0), (resamples, len(x))), 1
        how += f"; {resamples} draws, seed {seed}"
    p = _share(signs @ x / len(x), centre.value, own)
    return Estimate(centre.value, centre.low, centre.high, len(x), how, missing, p)


def _mean_difference_within(x: Floats, label: Codes, code: Codes) -> float:
    count = int(code.max()) + 1
    first = label == 0
    n1, n2 = np.bincount(code[first], minlength=count), np.bincount(code[~first], minlength=count)
    both = (n1 > 0) & (n2 > 0)
    sum1, sum2 = np.bincount(code[first], x[first], count), np.bincount(code[~first], x[~first], count)
    return float((sum1[both] / n1[both] - sum2[both] / n2[both]).mean())


def _share(null: Floats, value: float, own: int) -> float:
    """The share of the null at least as extreme; `own` adds the observed arrangement (Phipson & Smyth 2010)."""
    extreme = int((np.abs(null) >= abs(value) * (1 - TOLERANCE) - 1e-15).sum())
    return (extreme + own) / (len(null) + own)


def _clustered(values: Iterable[Any], clusters: Iterable[Any]) -> tuple[Floats, Codes, int, int]:
    """Present values, their cluster codes 0..count-1, the number of clusters, the number missing."""
    x = numbers(values)
    names = np.asarray(list(clusters), dtype=object)
    if len(names) != len(x):
        raise ValueError(f"{len(x)} values but {len(names)} clusters")
    there = ~np.isnan(x)
    code, known = pd.factorize(names[there])
    if (code < 0).any():
        raise ValueError("a value has no cluster")
    return x[there], code, len(known), int((~there).sum())
