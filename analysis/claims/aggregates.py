"""From a number per rollout to the one number that a claim states: shares, means, sums, ratios, comparisons.

Knows no file of claims. What has no interval by its nature (a total, an extreme) says so in `how`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis import stats
from analysis.stats import Estimate

NAN = float("nan")


@dataclass(frozen=True)
class Sample:
    """One number per rollout (NaN: missing); `over`, a denominator per rollout; `groups`, a level per rollout."""

    values: pd.Series[float]
    over: pd.Series[float] | None = None
    groups: pd.Series[str] | None = None


@dataclass(frozen=True)
class Aggregate:
    """needs, takes: which of over, against and across a definition must and may give it."""

    meaning: str
    of: Callable[[Sample, Sample], Estimate]
    needs: frozenset[str] = frozenset()
    may: frozenset[str] = frozenset()

    @property
    def takes(self) -> frozenset[str]:
        return self.needs | self.may


def _share(a: Sample, b: Sample) -> Estimate:
    return stats.wilson(a.values)


def _mean(a: Sample, b: Sample) -> Estimate:
    return stats.mean(a.values)


def _sum(a: Sample, b: Sample) -> Estimate:
    there = a.values.dropna()
    value = float(there.sum()) if len(there) else NAN
    return Estimate(value, NAN, NAN, len(there), "total, no interval", len(a.values) - len(there))


def _maximum(a: Sample, b: Sample) -> Estimate:
    there = a.values.dropna()
    value = float(there.max()) if len(there) else NAN
    return Estimate(value, NAN, NAN, len(there), "largest, no interval", len(a.values) - len(there))


def _ratio(a: Sample, b: Sample) -> Estimate:
    assert a.over is not None
    return stats.pooled_share(a.values, a.over)


def _difference(a: Sample, b: Sample) -> Estimate:
    return stats.newcombe(a.values, b.values)


def _fisher(a: Sample, b: Sample) -> Estimate:
    found = stats.fisher(a.values, b.values)
    return Estimate(found.p, NAN, NAN, found.n, "p of Fisher's exact test, two-sided", found.missing, found.p)


def _fold(a: Sample, b: Sample) -> Estimate:
    """How many times the first group's ratio is the second's; a missing `over` is 1 per rollout, which is the mean."""
    return stats.fold(a.values, _ones(a), b.values, _ones(b))


def _spread(a: Sample, b: Sample) -> Estimate:
    """The largest group's ratio over the smallest's. Which groups those are is picked from the data: no interval."""
    rates, n, missing = _by_group(a)
    if len(rates) < 2 or not rates.min() > 0:
        return Estimate(NAN, NAN, NAN, n, "largest over smallest group: needs two groups above 0", missing)
    how = f"largest ({rates.idxmax()}) over smallest group ({rates.idxmin()}), picked from the data: no interval"
    return Estimate(float(rates.max() / rates.min()), NAN, NAN, n, how, missing)


def _largest(a: Sample, b: Sample) -> Estimate:
    rates, n, missing = _by_group(a)
    if not len(rates):
        return Estimate(NAN, NAN, NAN, n, "largest group: no group has data", missing)
    how = f"largest group ({rates.idxmax()}), picked from the data: no interval"
    return Estimate(float(rates.max()), NAN, NAN, n, how, missing)


def _smallest(a: Sample, b: Sample) -> Estimate:
    rates, n, missing = _by_group(a)
    if not len(rates):
        return Estimate(NAN, NAN, NAN, n, "smallest group: no group has data", missing)
    how = f"smallest group ({rates.idxmin()}), picked from the data: no interval"
    return Estimate(float(rates.min()), NAN, NAN, n, how, missing)


def _by_group(a: Sample) -> tuple[pd.Series[float], int, int]:
    """The ratio of every group with a denominator above 0, rollouts counted, and missing ones."""
    assert a.groups is not None
    table = pd.DataFrame({"v": a.values, "t": _ones(a), "g": a.groups}).dropna()
    sums = table.groupby("g")[["v", "t"]].sum()
    sums = sums[sums["t"] > 0]
    return sums["v"] / sums["t"], len(table), len(a.values) - len(table)


def _ones(sample: Sample) -> pd.Series[float]:
    if sample.over is not None:
        return sample.over
    return pd.Series(np.where(sample.values.isna(), np.nan, 1.0), index=sample.values.index)


AGGREGATES: dict[str, Aggregate] = {
    "share": Aggregate("share of rollouts", _share),
    "mean": Aggregate("mean over rollouts", _mean),
    "sum": Aggregate("total over rollouts", _sum),
    "maximum": Aggregate("largest of any rollout", _maximum),
    "ratio": Aggregate("total over total, rollouts with more weigh more", _ratio, frozenset({"over"})),
    "difference": Aggregate("share minus the other group's", _difference, frozenset({"against"})),
    "fisher": Aggregate("p of Fisher's test of two shares", _fisher, frozenset({"against"})),
    "fold": Aggregate("times the other group's ratio or mean", _fold, frozenset({"against"}), frozenset({"over"})),
    "spread": Aggregate("largest group's mean or ratio over the smallest's", _spread, frozenset({"across"}),
                        frozenset({"over"})),
    "largest": Aggregate("the largest group's mean or ratio", _largest, frozenset({"across"}), frozenset({"over"})),
    "smallest": Aggregate("the smallest group's mean or ratio", _smallest, frozenset({"across"}), frozenset({"over"})),
}  # fmt: skip
