"""What a definition may name: metrics (a number per rollout) and statistics (an estimate straight from frames).

Knows no claim. Names carry a version, NAME@1; a definition that changes gets another one.
"""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from typing import TypeVar

from analysis.claims import choosing, exploring, quizzing
from analysis.claims.statistic import Statistic
from analysis.metrics import METRICS, Metric

_Query = TypeVar("_Query", Metric, Statistic)
COUNTS: dict[str, Metric] = {**choosing.COUNTS, **exploring.COUNTS}
"""Metrics that take parameters, measure(frames, **parameters); they are in no report of their own."""
STATISTICS: dict[str, Statistic] = {**choosing.STATISTICS, **exploring.STATISTICS, **quizzing.STATISTICS}


def metric(identifier: str) -> Metric:
    """The metric of NAME@VERSION. Raises ValueError, which the file's door words."""
    return _named(identifier, {**METRICS, **COUNTS}, "metric")


def statistic(identifier: str) -> Statistic:
    """The statistic of NAME@VERSION. Raises ValueError, which the file's door words."""
    return _named(identifier, STATISTICS, "statistic")


def fits(query: Metric | Statistic, groups: int, parameters: Mapping[str, object]) -> None:
    """Raises ValueError if the query does not take these parameters, or not frames of so many groups."""
    embed = {"embed": None} if query.name in exploring.EMBEDS else {}
    try:
        signature(query.measure).bind(*[None] * groups, **parameters, **embed)
    except TypeError as error:
        raise ValueError(f"{query.name} cannot be asked so: {error}") from error


def _named(identifier: str, known: Mapping[str, _Query], kind: str) -> _Query:
    name, _, version = identifier.partition("@")
    if name not in known:
        raise ValueError(f"{kind} {name!r} is unknown; there are {', '.join(sorted(known)) or 'none'}")
    if version != str(known[name].version):
        raise ValueError(f"{kind} {name} is of version {known[name].version}; write {name}@{known[name].version}")
    return known[name]
