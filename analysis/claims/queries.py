"""What a definition may name: metrics (a number per rollout) and statistics (an estimate straight from frames).

Knows no claim. Names carry a version, NAME@1; a definition that changes gets another one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from analysis.metrics import METRICS, Metric
from analysis.stats import Estimate


@dataclass(frozen=True)
class Statistic:
    """An estimate from the frames of the rollouts that were picked: measure(frames, **parameters). Where a claim
    compares, measure(frames, other frames, **parameters). Undefined is NaN, never 0."""

    name: str
    version: int
    meaning: str
    measure: Callable[..., Estimate]


_Query = TypeVar("_Query", Metric, Statistic)
COUNTS: dict[str, Metric] = {}
"""Metrics that take parameters, measure(frames, **parameters); they are in no report of their own."""
STATISTICS: dict[str, Statistic] = {}


def metric(identifier: str) -> Metric:
    """The metric of NAME@VERSION. Raises ValueError, which the file's door words."""
    return _named(identifier, {**METRICS, **COUNTS}, "metric")


def statistic(identifier: str) -> Statistic:
    """The statistic of NAME@VERSION. Raises ValueError, which the file's door words."""
    return _named(identifier, STATISTICS, "statistic")


def _named(identifier: str, known: Mapping[str, _Query], kind: str) -> _Query:
    name, _, version = identifier.partition("@")
    if name not in known:
        raise ValueError(f"{kind} {name!r} is unknown; there are {', '.join(sorted(known)) or 'none'}")
    if version != str(known[name].version):
        raise ValueError(f"{kind} {name} is of version {known[name].version}; write {name}@{known[name].version}")
    return known[name]
