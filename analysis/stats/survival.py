"""Time until something happens in a rollout, when some rollouts end before it does.

Knows no rounds or clocks: any time scale, and whether the event was seen or the rollout was censored.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats as scipy_stats

from analysis.stats.estimate import NAN, Estimate, Floats, numbers, undefined


@dataclass(frozen=True)
class Survival:
    """Kaplan-Meier's curve: at each time with an event or a censoring, the share not yet affected.

    times, survival, low, high, at_risk, events: equal lengths. median: NaN if the curve never reaches one half.
    """

    times: Floats
    survival: Floats
    low: Floats
    high: Floats
    at_risk: Floats
    events: Floats
    n: int
    missing: int
    median: float
    how: str

    def at(self, time: float) -> Estimate:
        """The share not yet affected just after `time`."""
        index = int(np.searchsorted(self.times, time, side="right")) - 1
        if index < 0:
            return Estimate(1.0, NAN, NAN, self.n, self.how, self.missing)
        return Estimate(
            float(self.survival[index]), float(self.low[index]), float(self.high[index]), self.n, self.how, self.missing
        )


def kaplan_meier(times: Iterable[Any], happened: Iterable[Any], level: float = 0.95) -> Survival:
    """The product-limit estimate with log-log intervals (Greenwood's variance). happened: 1 event, 0 censored."""
    seen, censored, missing = _split(times, happened)
    n, how = len(seen) + len(censored), f"Kaplan-Meier, log-log {level:.0%}"
    if n == 0:
        empty = np.array([])
        return Survival(empty, empty, empty, empty, empty, empty, 0, missing, NAN, how)
    fit = scipy_stats.ecdf(scipy_stats.CensoredData(uncensored=seen, right=censored))
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        warnings.filterwarnings(
            "ignore", message="The confidence interval is undefined"
        )  # where nobody or all are affected
        bounds: Any = fit.sf.confidence_interval(level, method="log-log")
    at = np.asarray(fit.sf.quantiles, dtype=float)
    share = np.asarray(fit.sf.probabilities, dtype=float)
    every = np.concatenate([seen, censored])
    at_risk = np.array([(every >= t).sum() for t in at], dtype=float)
    events = np.array([(seen == t).sum() for t in at], dtype=float)
    reached = np.flatnonzero(share <= 0.5 + 1e-12)
    return Survival(
        times=at,
        survival=share,
        low=np.asarray(bounds.low.probabilities, dtype=float),
        high=np.asarray(bounds.high.probabilities, dtype=float),
        at_risk=at_risk,
        events=events,
        n=n,
        missing=missing,
        median=float(at[reached[0]]) if len(reached) else NAN,
        how=how,
    )


def logrank(
    first_times: Iterable[Any],
    first_happened: Iterable[Any],
    second_times: Iterable[Any],
    second_happened: Iterable[Any],
) -> Estimate:
    """The log-rank test of two survival curves, two-sided. value: the standard normal statistic."""
    seen1, censored1, missing1 = _split(first_times, first_happened)
    seen2, censored2, missing2 = _split(second_times, second_happened)
    n1, n2, how = len(seen1) + len(censored1), len(seen2) + len(censored2), "log-rank, two-sided, asymptotic"
    if n1 == 0 or n2 == 0 or len(seen1) + len(seen2) == 0:
        return undefined(how, n1 + n2, missing1 + missing2)
    result = scipy_stats.logrank(
        scipy_stats.CensoredData(uncensored=seen1, right=censored1),
        scipy_stats.CensoredData(uncensored=seen2, right=censored2),
    )
    return Estimate(float(result.statistic), NAN, NAN, n1 + n2, how, missing1 + missing2, float(result.pvalue))


def _split(times: Iterable[Any], happened: Iterable[Any]) -> tuple[Floats, Floats, int]:
    """Times of events, times of censorings, and how many had either part missing."""
    t, e = numbers(times), numbers(happened)
    if len(t) != len(e):
        raise ValueError(f"{len(t)} times but {len(e)} events")
    there = ~(np.isnan(t) | np.isnan(e))
    return t[there & (e == 1)], t[there & (e == 0)], int((~there).sum())
